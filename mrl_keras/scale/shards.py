"""An embedded corpus as one index and one exported model for each shard."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tqdm.auto import tqdm

from mrl_keras.files import (
    atomic_directory,
    check_complete,
    directory_is_complete,
    exists,
    is_directory,
    join,
    list_names,
    read_json,
    write_json,
)
from mrl_keras.retrieval import IndexOptions, NestedIndex, SearchPlan
from mrl_keras.retrieval.bulk.fingerprints import (
    describe_differences,
    options_fingerprint,
    plan_fingerprint,
)
from mrl_keras.retrieval.index.build import check_ids
from mrl_keras.scale.corpus import EmbeddedCorpus

_ABOUT, _SHARDS = "shard.json", "shards.json"
INDEX, MODEL = "index", "model"
"""What a shard's folder holds."""


def build_shards(
    corpus: str | EmbeddedCorpus,
    output: str,
    plan: SearchPlan,
    *,
    options: IndexOptions | None = None,
    encoder=None,
    progress: bool = False,
) -> list[str]:
    """Makes `output`/shard-00000/index and /model, and so on, of each shard of a corpus.

    A shard that is there is left as it is, so the same call goes on where another one stopped. A
    shard that fails does not stop the others.

    Args:
        corpus: `EmbeddedCorpus`, or its folder.
        output: str, folder of the shards, local or remote.
        plan: `SearchPlan` of each exported model; see `mrl_keras.retrieval.shard_plan`.
        options: `IndexOptions`. Defaults to `None`: the corpus's metric, bfloat16 for a bfloat16
            corpus, no ScaNN.
        encoder: Keras layer or model of raw inputs, which every exported model then holds. Defaults
            to `None`: a shard takes embeddings, and whoever asks embeds a query once.
        progress: bool, whether to show a progress bar. Defaults to `False`.

    Returns:
        The paths of the shards' folders, in order.

    Raises:
        ValueError: a plan whose dims the corpus lacks; shards that failed, each with its reason;
            shards in `output` of other rows or options.
    """
    corpus = corpus if isinstance(corpus, EmbeddedCorpus) else EmbeddedCorpus(corpus)
    plan.check_dims(corpus.layout.dims)
    if options is None:
        storage = "bfloat16" if corpus.layout.storage == "bfloat16" else "float32"
        options = IndexOptions(corpus.layout.metric, storage)
    about = {
        "plan": plan_fingerprint(plan),
        "index": options_fingerprint(options),
        "of": corpus.layout.shards,
    }
    paths, failed = [], {}
    if not exists(join(output, _SHARDS)):  # another corpus, refused below, changes nothing
        write_json(join(output, _SHARDS), {"shards": [shard["shard"] for shard in corpus.shards]})
    for shard in tqdm(corpus.shards, unit="shard", disable=not progress):
        path = join(output, _name(shard["shard"]))
        paths.append(path)
        wanted = {**about, "rows": shard["rows"], "sha256": shard["sha256"]}
        if directory_is_complete(path):
            _check_same(path, wanted)
            continue
        try:
            _build(path, corpus, shard, plan, options, encoder, wanted)
        except (ValueError, OSError) as error:
            failed[shard["file"]] = str(error)
    if failed:
        listed = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise ValueError(
            f"{len(failed)} of {len(corpus.shards)} shards failed ({listed}). The others are "
            "there; repair these, and the same call makes them."
        )
    return paths


def _build(path, corpus, shard, plan, options, encoder, about):
    from mrl_keras.export import ServingOptions, export_saved_model

    dims, ids = corpus.layout.dims, []

    def vectors():
        for rows in corpus.read(shard=shard):
            ids.append(rows.ids)
            yield rows.vectors

    index = NestedIndex.build(vectors(), dims, None, options)
    # Its ids are known once its rows are read.
    index.ids = check_ids(np.concatenate(ids), len(index))
    with atomic_directory(path) as folder:
        index.save(join(folder, INDEX))
        export_saved_model(
            join(folder, MODEL),
            _identity(dims.width) if encoder is None else encoder,
            nesting_dims=dims,
            index=index,
            plan=plan,
            options=ServingOptions(about={"shard": about}, warmup_batch_sizes=(1,)),
        )
        write_json(join(folder, _ABOUT), about)


def _identity(width):
    import keras

    inputs = keras.Input((width,), name="query")
    return keras.Model(inputs, keras.layers.Identity()(inputs))


def _check_same(path, wanted):
    there = join(path, _ABOUT)
    found = describe_differences(read_json(there) if exists(there) else {}, wanted)
    if found:
        raise ValueError(
            f"{path} is of other rows or options: {', '.join(found[:5])}. Choose another folder, "
            "or remove this one."
        )


def shard_folders(output: str) -> list[str]:
    """The folders that `build_shards` made in `output`, in order.

    Raises:
        ValueError: there is none, or not all of them are there.
    """
    names = [n for n in list_names(output) if n.startswith("shard-")]
    paths = [join(output, name) for name in names if is_directory(join(output, name))]
    if not paths:
        raise ValueError(f"{output} must hold shards that `build_shards` made. It holds none.")
    wanted = read_json(join(output, _SHARDS))["shards"] if exists(join(output, _SHARDS)) else ()
    missing = [name for name in map(_name, wanted) if join(output, name) not in paths]
    if missing:
        raise ValueError(
            f"{output} must hold all shards of its corpus. It lacks {', '.join(missing[:5])}: the "
            "same call of `build_shards` makes them."
        )
    for path in paths:
        check_complete(path)
    return paths


def _name(shard):
    return f"shard-{shard:05d}"


def load_shards(output: str, memory_map: bool = True) -> Sequence[NestedIndex]:
    """The indexes of all shards; `mrl_keras.retrieval.merge_results` joins their answers.

    Args:
        output: str, the folder that `build_shards` filled.
        memory_map: bool, whether the rows stay on disk. Defaults to `True`.

    Raises:
        ValueError: no shards, or a damaged one.
    """
    return [NestedIndex.load(join(path, INDEX), memory_map) for path in shard_folders(output)]
