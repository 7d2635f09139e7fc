"""The ScaNN searcher's life: built when its model is loaded, gone when the model is."""

import gc

import pytest
import tensorflow as tf

from mrl_keras.export import load
from mrl_keras.export.graph.scann_resource import ScannResource
from mrl_keras.retrieval.scann.searcher import scann_ops
from tests.export import cases


def searcher_name(model):
    """The shared name that the loader gave the searcher."""
    library = model.signatures["retrieve"].graph.as_graph_def().library.function
    nodes = [node for function in library for node in function.node_def]
    (name,) = {n.attr["shared_name"].s for n in nodes if n.op == "Scann>TensorsToScann"}
    return name.decode()


def ask(name):
    """Row numbers from the searcher `name`, which must exist: nothing here could build it."""
    _, ops = scann_ops()
    resource = ScannResource(parts=None)
    resource._name = name

    @tf.function  # a new one each time, since a kernel keeps what it found
    def search():
        queries = tf.constant(cases.queries(3)[:, :8])
        return ops.scann_search_batched(resource.handle(), queries, 5, 5, 25, False)[0]

    return search().numpy()


def test_a_model_that_is_dropped_takes_its_searcher_along(exported, model):
    dropped = load(exported.path)
    names = [searcher_name(one) for one in (dropped, model)]
    assert names[0] != names[1]
    assert ask(names[0]).tolist() == ask(names[1]).tolist()
    del dropped
    gc.collect()
    with pytest.raises(tf.errors.OpError, match="null"):
        ask(names[0])
    assert ask(names[1]).shape == (3, 5)
    assert model.signatures["retrieve"](features=tf.zeros([2, 6]))["ids"].shape == (2, 7)
