"""One exported model, in two versions and with a twin, for all tests of this folder."""

import types

import pytest
import tensorflow as tf

from mrl_keras.export import ServingOptions, export_saved_model
from tests.export import cases


def margin(embedding):
    """A head that is no Keras layer."""
    best = tf.math.top_k(embedding, 2).values
    return {"margin": best[:, 0] - best[:, 1]}


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """`path` of version 1 with `plain` its twin, `second` of version 2 over other rows.

    In version 2 ScaNN does the first rerank.
    """
    base = tmp_path_factory.mktemp("saved_models")
    encoder, classifier = cases.encoder(), cases.classifier()
    encoder.compile("adam", "mse")
    encoder.fit(tf.zeros([4, cases.FEATURES]), tf.zeros([4, 32]), verbose=0)
    indexes = [
        cases.index(seed, storage="bfloat16", reorder_dim=16 * seed or None) for seed in (0, 1)
    ]
    paths = [
        export_saved_model(
            str(base / "tiny"),
            encoder=encoder,
            nesting_dims=cases.DIMS,
            classifier=classifier if seed == 0 else None,
            heads={"margin": margin} if seed == 0 else None,
            index=index,
            plan=cases.PLAN,
            metrics={"top1": {8: 0.5, 32: 0.75}} if seed == 0 else None,
            twin=seed == 0,
            options=ServingOptions(max_k=50, max_shortlist=400, warmup_batch_sizes=(1, 4)),
        )
        for seed, index in enumerate(indexes)
    ]
    return types.SimpleNamespace(
        base=base,
        path=paths[0],
        second=paths[1],
        plain=str(base / "tiny_plain" / "1"),
        encoder=encoder,
        classifier=classifier,
        index=indexes[0],
        second_index=indexes[1],
    )


@pytest.fixture
def tiny(tmp_path):
    """A function that exports the encoder alone, with changed arguments."""

    def export(**changes):
        arguments = {"encoder": cases.encoder(), "nesting_dims": cases.DIMS}
        return export_saved_model(str(tmp_path / "m"), **(arguments | changes))

    export.folder = tmp_path / "m"
    return export
