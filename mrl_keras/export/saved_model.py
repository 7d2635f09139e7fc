"""Exporting an encoder, its classifier and its nested index as one SavedModel for TF Serving."""

from __future__ import annotations

import contextlib
import gc
import os
import re
from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from mrl_keras.cascade import AdaptiveClassifier, CascadePolicy
from mrl_keras.export.graph.module import ServingModule
from mrl_keras.export.graph.search import NestedSearch
from mrl_keras.export.graph.shortlists import ExactShortlist, PartitionShortlist, ScannShortlist
from mrl_keras.export.inputs import RawInputs
from mrl_keras.export.manifest import (
    FORMAT_VERSION,
    describe_index,
    library_versions,
    plain_numbers,
    write_manifest,
)
from mrl_keras.export.options import ServingOptions
from mrl_keras.export.versions import MODEL_FILE, version_to_write
from mrl_keras.export.warmup import write_warmup
from mrl_keras.files import atomic_directory
from mrl_keras.nesting import NestingDims

TWIN_SUFFIX = "_plain"
"""What a twin's name has after the model's."""

_OWN_SIGNATURES = re.compile(
    "serving_default|classify(_adaptive)?|embed|embed_dim|embed_dim_batch|"
    "retrieve(_embeddings)?(_dynamic|_batch)?"
)

_TEXT_OPS = {
    "CaseFoldUTF8",
    "FastBertNormalize",
    "FastWordpieceTokenizeWithOffsets",
    "NormalizeUTF8",
    "RegexSplitWithOffsets",
    "SentencepieceOp",
    "SentencepieceTokenizeOp",
    "UnicodeScriptTokenizeWithOffsets",
    "WhitespaceTokenizeWithOffsets",
    "WordpieceTokenizeWithOffsets",
}


def export_saved_model(
    directory: str,
    *,
    encoder: keras.layers.Layer,
    nesting_dims: Sequence[int],
    classifier: keras.layers.Layer | None = None,
    cascade=None,
    heads: Mapping[str, Callable] | None = None,
    encoders: Mapping[str, keras.layers.Layer] | None = None,
    functions: Mapping[str, Callable] | None = None,
    index=None,
    plan=None,
    version: int | None = None,
    metrics: Mapping | None = None,
    twin: bool = False,
    options: ServingOptions | None = None,
) -> str:
    """Writes `directory`/VERSION/, a SavedModel that TF Serving loads as it is.

    The model has the signatures that `ServingModule` lists: `embed`, `embed_dim`,
    `embed_dim_batch`; `classify`; `classify_adaptive`; one for each of `heads`, `functions` and
    `encoders`; `retrieve`, `retrieve_embeddings` and their `_dynamic` and `_batch` variants;
    `serving_default`. Retrieval gives the answers of `index.search(queries, plan)`.

    Each request reads only the dims that a rerank adds. The ScaNN searcher is built once, while
    the model is loaded. `assets.extra/` holds `manifest.json` (see `load_manifest`) and TF
    Serving's warm-up requests. The folder appears whole, by a rename, or not at all.

    Args:
        directory: the model's folder; its last part is the model's name.
        encoder: Keras layer or model, raw inputs -> (batch, d) embedding.
        nesting_dims: `NestingDims` or ints that end at the width d.
        classifier: optional Keras layer or model, (batch, d) embedding -> nested logits
            (batch, prefixes, classes), such as `MatryoshkaDense`. `classify` serves its full
            width; where the layer has `prefix_logits`, no other prefix is computed.
        cascade: optional `mrl_keras.cascade.CascadePolicy` for the classifier, which must be a
            `MatryoshkaDense`: `classify_adaptive` answers each row with the smallest prefix that
            is confident, and computes wider ones for the other rows only.
        heads: optional mapping from further signature names to functions (Keras layers, usually)
            of the embedding, each giving a tensor or a dict of tensors.
        encoders: optional mapping from further signature names to encoders of raw inputs of their
            own into the same space: the towers of a dual encoder,
            `{"embed_image": image_tower, "embed_text": text_tower}`, one of which is `encoder`.
            Each gives `embedding` (batch, d).
        functions: optional mapping from further signature names to functions (Keras models,
            usually) of the encoder's raw inputs, for what does not follow from the embedding,
            each giving a tensor or a dict of tensors.
        index: optional `mrl_keras.retrieval.NestedIndex` over embeddings of the same encoder.
        plan: the `SearchPlan` that `retrieve` runs; needed with `index`.
        version: int, the version to write; `None` takes one above the highest.
        metrics: optional mapping for the manifest, such as `{"top1": {8: 0.91, 64: 0.95}}`.
        twin: bool, whether to write the same signatures without custom ops as a second model,
            `directory` + "_plain", with the same version: for servers that do not link ScaNN. It
            searches the leaves of the same tree exactly. A model whose shortlists are exact needs
            none of ScaNN's ops, and gets no twin. Custom ops of the encoder itself, such as those
            of `BertTokens`, are in both. Defaults to `False`.
        options: `ServingOptions`: bounds of optional inputs, warm-up, the encoder's input specs.

    Returns:
        The path of the version's folder.

    Raises:
        ValueError: the Keras backend is not TensorFlow; the encoder's inputs are not known or its
            output is not d wide; the classifier's output is not nested; an index of another width,
            without a plan, or a plan whose dims it does not have; a cascade without a classifier
            or for dims that it does not have; a head or function with a name that
            is taken; a version that exists; metrics that JSON does not hold.

    Example:

    >>> import tempfile
    >>> encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8)])
    >>> folder = os.path.join(tempfile.mkdtemp(), "tiny")
    >>> path = export_saved_model(folder, encoder=encoder, nesting_dims=[4, 8])
    >>> os.path.relpath(path, folder), sorted(tf.saved_model.load(path).signatures)
    ('1', ['embed', 'embed_dim', 'embed_dim_batch', 'serving_default'])
    """
    dims, options = NestingDims(nesting_dims), options or ServingOptions()
    directory = os.path.abspath(os.fspath(directory))
    heads, functions, encoders = (dict(given or {}) for given in (heads, functions, encoders))
    _check_arguments(dims, index, plan, [*heads, *functions, *encoders])
    if cascade is not None:
        if classifier is None:
            raise ValueError("`cascade` belongs to a `classifier`. Received none; give both.")
        if not isinstance(cascade, CascadePolicy):
            raise ValueError(f"`cascade` must be a CascadePolicy. Received {cascade!r}.")
        heads["classify_adaptive"] = AdaptiveClassifier(classifier, cascade)
    inputs = _checked_inputs(encoder, dims, options.input_spec)
    others = {
        name: inputs if other is encoder else _checked_inputs(other, dims)
        for name, other in encoders.items()
    }
    classify = None if classifier is None else _full_width(classifier, dims)
    targets = {directory: _finder_class(index, plan)}
    if twin and targets[directory] is ScannShortlist:
        targets[directory + TWIN_SUFFIX] = PartitionShortlist
    version = version_to_write(list(targets), version)
    parts = (encoder, classifier, *heads.values(), *functions.values(), *encoders.values())
    layers = [part for part in parts if isinstance(part, keras.layers.Layer)]

    def build(finder_class):
        search = bounds = None
        if index is not None:
            bounds = options.bounds(plan)
            search = NestedSearch(index, plan, _finder(finder_class, index, plan))
        module = ServingModule(
            inputs, dims.width, layers, classify, heads, functions, search, bounds, others
        )
        retrieval = None if search is None else describe_index(index, plan, search, bounds)
        return module, retrieval

    with contextlib.ExitStack() as folders:
        for path, finder_class in targets.items():
            folder = folders.enter_context(atomic_directory(os.path.join(path, str(version))))
            module, retrieval = build(finder_class)
            about = {
                "name": os.path.basename(path),
                "version": version,
                "twin_of": None if path == directory else os.path.basename(directory),
                "nesting_dims": list(dims),
                "metrics": plain_numbers(metrics or {}),
                "encoders": sorted(encoders),
                "cascade": None if cascade is None else cascade.to_dict(),
                "retrieval": retrieval,
            }
            _write(folder, module, about, options)
            # The variables are a copy of the database: gone before the twin makes its own.
            del module
            gc.collect()
    return os.path.join(directory, str(version))


def _write(folder, module, about, options):
    """The SavedModel of `module` and its assets.extra, into the empty `folder`."""
    functions = module.signatures_by_name
    tf.saved_model.save(module, folder, signatures=functions)
    specs = {name: tf.nest.flatten(fn.input_signature) for name, fn in functions.items()}
    warmed = write_warmup(
        folder, about["name"], specs, module.example_values(), options.warmup_batch_sizes
    )
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


def custom_op_packages(path: str) -> list[str]:
    """The packages of the custom ops in a SavedModel: `Scann` of `Scann>TensorsToScann`.

    tensorflow-text's older ops have no package in their names, and count as its newer ones.
    """
    with open(os.path.join(path, MODEL_FILE), "rb") as file:
        saved = saved_model_pb2.SavedModel.FromString(file.read())
    ops = set()
    for graph in (part.graph_def for part in saved.meta_graphs):
        ops.update(node.op for node in graph.node)
        ops.update(node.op for function in graph.library.function for node in function.node_def)
    return sorted({"TFText" if op in _TEXT_OPS else op.split(">")[0] for op in ops if _custom(op)})


def _custom(op):
    return ">" in op or op in _TEXT_OPS


def _finder_class(index, plan):
    """How the main model finds shortlists: as `NestedIndex.search` does."""
    if index is None:
        return None
    scann = index.shortlist is not None and index.shortlist.dim == plan.shortlist_dim
    return ScannShortlist if scann and plan.rerank_dims else ExactShortlist


def _finder(finder_class, index, plan):
    if finder_class is ExactShortlist:
        return ExactShortlist(index, plan.shortlist_dim)
    return finder_class(index, plan) if finder_class is ScannShortlist else finder_class(index)


def _full_width(classifier, dims):
    """The logits of the widest prefix alone, from an embedding."""

    def classify(embedding):
        if hasattr(classifier, "prefix_logits"):
            return classifier.prefix_logits(embedding, dims.width)
        return classifier(embedding, training=False)[..., -1, :]

    nested = classifier.compute_output_shape((None, dims.width))
    if len(nested) != 3 or nested[1] != len(dims):
        raise ValueError(
            f"The classifier must give nested logits (batch, {len(dims)}, classes) from an "
            f"embedding (batch, {dims.width}). Its output shape is {tuple(nested)}."
        )
    return classify


def _checked_inputs(encoder, dims, input_spec=None):
    if keras.config.backend() != "tensorflow":
        raise ValueError(
            "A SavedModel needs Keras on its TensorFlow backend. Keras runs on "
            f"{keras.config.backend()!r}; set KERAS_BACKEND=tensorflow and load the weights there."
        )
    inputs = RawInputs(encoder, input_spec)
    shape = inputs.encode.get_concrete_function().structured_outputs.shape
    if shape.rank != 2 or shape[1] != dims.width:
        raise ValueError(
            f"The encoder must give embeddings (batch, {dims.width}), the width at which "
            f"`nesting_dims` {list(dims)} end. Its output shape is {shape}."
        )
    return inputs


def _check_arguments(dims, index, plan, names):
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
    for name in names:
        if not name.isidentifier() or _OWN_SIGNATURES.fullmatch(name) or names.count(name) > 1:
            raise ValueError(
                "A head's name must be an identifier that no other signature has, such as "
                f"'classify_coarse'. Received {name!r}."
            )
