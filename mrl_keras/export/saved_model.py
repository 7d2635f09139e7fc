"""Exporting an encoder, its classifier and its nested index as one SavedModel for TF Serving."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import shutil
from collections.abc import Sequence

import keras
import tensorflow as tf

from mrl_keras.cascade import AdaptiveClassifier
from mrl_keras.export.custom_ops import custom_op_packages
from mrl_keras.export.graph.inputs import RawInputs
from mrl_keras.export.graph.module import (
    ServedParts,
    ServedSearch,
    ServingModule,
    class_outputs,
)
from mrl_keras.export.graph.search import NestedSearch
from mrl_keras.export.graph.shortlists import (
    ExactShortlist,
    PartitionShortlist,
    ScannShortlist,
    SignShortlist,
)
from mrl_keras.export.manifest import (
    EXTRA,
    FORMAT_VERSION,
    describe_index,
    library_versions,
    plain_numbers,
    write_manifest,
)
from mrl_keras.export.options import Retrieval, ServingOptions
from mrl_keras.export.versions import version_to_write
from mrl_keras.export.warmup import write_warmup
from mrl_keras.files import absolute_path, atomic_directory, join, local_copy
from mrl_keras.lazy_tensorflow import require_backend
from mrl_keras.nesting import NestingDims
from mrl_keras.retrieval import PartitionSearcher, ScannSearcher, SignSearcher

_SHORTLISTS = {
    ScannSearcher: ScannShortlist,
    SignSearcher: SignShortlist,
    PartitionSearcher: PartitionShortlist,
}

TWIN_SUFFIX = "_plain"
"""What a twin's name has after the model's."""

_OWN_SIGNATURES = re.compile(
    "serving_default|classify(_adaptive)?|embed(_dim|_dim_batch|_layer)?|retrieve(_.*)?"
)
_OWN_RETRIEVALS = re.compile("(.*_)?(embeddings|dynamic|batch)")


def export_saved_model(
    directory: str,
    encoder: keras.layers.Layer,
    *,
    nesting_dims: Sequence[int] | None = None,
    classifier: keras.layers.Layer | None = None,
    index=None,
    plan=None,
    options: ServingOptions | None = None,
) -> str:
    """Writes `directory`/VERSION/, a SavedModel that TF Serving loads as it is.

    The model has the signatures that `ServingModule` lists: `embed`, `embed_dim`,
    `embed_dim_batch`; `embed_layer`; `classify`; `classify_adaptive`; one for each of the options'
    `heads`, `functions`, `encoders` and `retrievals`; `retrieve`, `retrieve_embeddings` and their
    `_dynamic` and `_batch` variants; `serving_default`. Retrieval gives the answers of
    `index.search(queries, plan)`; of a certified plan, `certified` as well.

    Each request reads only the dims that a rerank adds. The ScaNN searcher is built once, while
    the model is loaded. `assets.extra/` holds `manifest.json` (see `load_manifest`) and TF
    Serving's warm-up requests. The folder appears whole or not at all (see `mrl_keras.files`).

    Args:
        directory: the model's folder, local or remote; its last part is the model's name.
        encoder: Keras layer or model, raw inputs -> (batch, d) embedding. Of a task of KerasHub, or
            of `MatryoshkaTextEmbedder`, the preprocessor is exported with it: the model then reads
            strings, "text" (batch,), or images.
        nesting_dims: `NestingDims` or ints that end at the width d. Default `None`, those of the
            classifier where it has any, else those of the index or of the encoder.
        classifier: optional Keras layer or model, (batch, d) embedding -> nested logits
            (batch, prefixes, classes), such as `MatryoshkaDense`. `classify` serves its full
            width; where the layer has `prefix_logits`, no other prefix is computed. An
            `mrl_keras.cascade.AdaptiveClassifier` adds `classify_adaptive`, which answers each row
            with the smallest prefix that is confident, and computes wider ones for the other rows
            only.
        index: optional `mrl_keras.retrieval.NestedIndex` over embeddings of the same encoder.
        plan: the `SearchPlan` that `retrieve` runs; needed with `index`.
        options: `ServingOptions`: further signatures, the version, a twin without custom ops,
            metrics for the manifest, bounds of optional inputs, warm-up, the encoder's input specs.

    Returns:
        The path of the version's folder.

    Raises:
        ValueError: the Keras backend is not TensorFlow; nesting dims that are not known; the
            encoder's inputs are not known or its output is not d wide; the classifier's output is
            not nested; an index of another width, without a plan, or a plan whose dims it does not
            have; a name that is taken; a version that exists; metrics that JSON does not hold.
        OSError: a remote folder that can't be written; no version is then seen there.

    Example:

    >>> import tempfile
    >>> encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8)])
    >>> folder = os.path.join(tempfile.mkdtemp(), "tiny")
    >>> path = export_saved_model(folder, encoder, nesting_dims=[4, 8])
    >>> os.path.relpath(path, folder), sorted(tf.saved_model.load(path).signatures)
    ('1', ['embed', 'embed_dim', 'embed_dim_batch', 'serving_default'])
    """
    directory = absolute_path(directory, "`directory`")
    require_backend("A SavedModel")
    options = options or ServingOptions()
    cascade = None
    if isinstance(classifier, AdaptiveClassifier):
        adaptive, classifier = classifier, classifier.classifier
        cascade = adaptive.policy
    dims = _nesting_dims(nesting_dims, classifier, index, encoder)
    _check_retrieval(dims, index, plan)
    _check_names([*options.heads, *options.functions, *options.encoders])
    _check_retrievals(dims, index, options)
    heads = dict(options.heads)
    if classifier is not None:
        heads = {"classify": _full_width(classifier, dims), **heads}
    if cascade is not None:
        heads["classify_adaptive"] = adaptive
    made = {id(encoder): RawInputs(encoder, dims.width, options.input_spec)}

    def inputs_of(other):
        if id(other) not in made:
            made[id(other)] = RawInputs(other, dims.width)
        return made[id(other)]

    others = {name: inputs_of(other) for name, other in options.encoders.items()}
    layers = {number: inputs_of(other) for number, other in options.layers.items()}
    _check_layers(inputs_of(encoder), layers)
    parts = ServedParts(inputs_of(encoder), heads, others, dict(options.functions), layers)
    retrievals = {} if index is None else {"retrieve": Retrieval(encoder, index, plan)}
    retrievals |= {f"retrieve_{name}": other for name, other in options.retrievals.items()}

    targets = {directory: ScannShortlist}
    if options.twin and ScannShortlist in map(_shortlist_class, retrievals.values()):
        targets[directory + TWIN_SUFFIX] = PartitionShortlist
    version = version_to_write(list(targets), options.version)
    with contextlib.ExitStack() as folders:
        for path, tree_search in targets.items():
            folder = folders.enter_context(atomic_directory(join(path, str(version))))
            searches = {
                name: _served_search(one, inputs_of(one.encoder), tree_search, options)
                for name, one in retrievals.items()
            }
            module = ServingModule(parts, searches)
            described = {
                name: describe_index(
                    one.index, searches[name].nested_search, options.bounds(one.plan)
                )
                for name, one in retrievals.items()
            }
            about = {
                "name": os.path.basename(path),
                "version": version,
                "twin_of": None if path == directory else os.path.basename(directory),
                "nesting_dims": list(dims),
                "metrics": plain_numbers(options.metrics),
                "encoders": sorted(options.encoders),
                "layers": list(options.layers),
                "cascade": None if cascade is None else cascade.to_dict(),
                "retrieval": described.pop("retrieve", None),
                "retrievals": {name.partition("_")[2]: one for name, one in described.items()},
                "about": plain_numbers(options.about),
            }
            _write(folder, module, about, options)
            # The variables are a copy of the database: gone before the twin makes its own.
            del module, searches
            gc.collect()
    return join(directory, str(version))


def _write(folder, module, about, options):
    """The SavedModel of `module` and its assets.extra, into the empty `folder`."""
    functions = module.signatures_by_name
    tf.saved_model.save(module, folder, signatures=functions)
    specs = {name: tf.nest.flatten(fn.input_signature) for name, fn in functions.items()}
    sizes = options.warmup_batch_sizes
    warmed = write_warmup(folder, about["name"], specs, module.example_values(), sizes)
    for name, source in options.files.items():
        os.makedirs(os.path.join(folder, EXTRA), exist_ok=True)
        with local_copy(source) as local:
            shutil.copyfile(local, os.path.join(folder, EXTRA, name))
    dims, custom_ops = about["nesting_dims"], custom_op_packages(folder)
    content = {
        "format_version": FORMAT_VERSION,
        **about,
        "is_matryoshka": True,
        "matryoshka_dimensions": dims,
        "width": dims[-1],
        "normalization": {
            "embed": None,
            "embed_dim": "l2 of the prefix",
            "embed_dim_batch": "l2 of each row's prefix, zeros after it",
            **dict.fromkeys(["embed_layer"] if about["layers"] else []),
            **dict.fromkeys(about["encoders"]),
        },
        "custom_ops": custom_ops,
        "signatures": {
            name: {spec.name: [spec.dtype.name, spec.shape.as_list()] for spec in specs[name]}
            for name in functions
        },
        "warmed_signatures": warmed,
        "libraries": library_versions(custom_ops),
    }
    write_manifest(folder, content)


def _served_search(retrieval, inputs, tree_search, options):
    """The `ServedSearch` of a `Retrieval`; `tree_search` is used where ScaNN finds shortlists."""
    found_by = _shortlist_class(retrieval)
    found_by = tree_search if found_by is ScannShortlist else found_by
    search = NestedSearch(retrieval.index, retrieval.plan, found_by)
    return ServedSearch(inputs, search, options.bounds(retrieval.plan))


def _shortlist_class(retrieval):
    """How the main model finds shortlists: as `NestedIndex.search` does."""
    shortlist, plan = retrieval.index.shortlist, retrieval.plan
    if shortlist is None or shortlist.dim != plan.shortlist_dim or not plan.rerank_dims:
        return ExactShortlist
    return _SHORTLISTS[type(shortlist)]


def _full_width(classifier, dims):
    """The head that answers with the logits of the widest prefix alone."""
    nested = classifier.compute_output_shape((None, dims.width))
    if len(nested) != 3 or nested[1] != len(dims):
        raise ValueError(
            f"The classifier must give nested logits (batch, {len(dims)}, classes) from an "
            f"embedding (batch, {dims.width}). Its output shape is {tuple(nested)}."
        )

    def classify(embedding):
        if hasattr(classifier, "prefix_logits"):
            return class_outputs(classifier.prefix_logits(embedding, dims.width))
        return class_outputs(classifier(embedding, training=False)[..., -1, :])

    return classify


def _nesting_dims(nesting_dims, *parts):
    """The given dims, else those of the first part that has any: classifier, index, encoder."""
    known = (getattr(part, "nesting_dims", None) for part in parts)
    if nesting_dims is None:
        nesting_dims = next((dims for dims in known if dims is not None), None)
    if nesting_dims is None:
        raise ValueError(
            "The nesting dims are not known: no classifier, index or encoder has them. Give "
            "`nesting_dims`, the prefix sizes up to the embedding's width."
        )
    return NestingDims(nesting_dims)


def _check_layers(inputs, layers):
    for number, other in layers.items():
        if other.specs != inputs.specs:
            raise ValueError(
                "The encoders of `layers` must take the raw inputs of the exported encoder, "
                f"{list(inputs.specs.values())}. That of layer {number} takes "
                f"{list(other.specs.values())}."
            )


def _check_retrieval(dims, index, plan):
    if (index is None) != (plan is None):
        raise ValueError(
            "`index` and `plan` belong together: the plan says what `retrieve` does with the "
            f"index. Received index={index!r} and plan={plan!r}."
        )
    if index is not None:
        if index.width != dims.width:
            raise ValueError(
                f"The index must hold embeddings of the width {dims.width}, the last of "
                f"`nesting_dims` {list(dims)}. Its rows are {index.width} wide."
            )
        plan.check_dims(index.nesting_dims)


def _check_retrievals(dims, index, options):
    for name, retrieval in options.retrievals.items():
        if index is None or not name.isidentifier() or _OWN_RETRIEVALS.fullmatch(name):
            raise ValueError(
                "`retrievals` come beside an index of the model's own, and a name is an identifier "
                f"that ends in no word of the other signatures, such as 'texts'. Received {name!r}"
                f"{' without `index`' if index is None else ''}."
            )
        _check_retrieval(dims, retrieval.index, retrieval.plan)


def _check_names(names):
    for name in names:
        if not name.isidentifier() or _OWN_SIGNATURES.fullmatch(name) or names.count(name) > 1:
            raise ValueError(
                "A head's name must be an identifier that no other signature has, such as "
                f"'classify_coarse'. Received {name!r}."
            )
