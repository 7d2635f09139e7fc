"""The names of raw inputs, and encoders with several outputs."""

import keras
import pytest
import tensorflow as tf

from mrl_keras.export.graph.inputs import RawInputs


class Encoder(keras.layers.Layer):
    """A dict of (batch, 4) -> what `outputs` makes of (batch, 8)."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs = outputs

    def call(self, inputs):
        return self.outputs(keras.ops.tile(sum(inputs.values()), (1, 2)))


def raw(*names, outputs=lambda x: x):
    specs = {name: tf.TensorSpec((None, 4), tf.float32) for name in names}
    return RawInputs(Encoder(outputs), 8, specs)


@pytest.mark.parametrize(
    "name", ["input-1", "a.b", "1st", "Age", "a/b", "args", "kwargs", "inputs"]
)
def test_names_that_can_be_served(name):
    assert list(raw(name).specs) == [name]


@pytest.mark.parametrize(
    "name",
    ["customer id", "image:0", "naïve", "_x", "class", "self", "None", "lambda", "", "名前"]
    + ["a+b", "a(b)", "a,b", "-a", "/a", "a/", "^a", "__x__", "é"],
)
def test_names_that_cannot_be_served(name):
    with pytest.raises(ValueError, match="that a signature can have. Received .*Rename it in"):
        raw(name)


@pytest.mark.parametrize("names", [("a", "A"), ("a.b", "a_b"), ("1", "arg_1"), ("Dim",)])
def test_names_that_become_one(names):
    with pytest.raises(ValueError, match="must differ in more than case and signs"):
        raw(*names)


def test_the_name_of_a_keras_input_is_refused():
    inputs = keras.Input((4,), name="customer id")
    with pytest.raises(ValueError, match="Received 'customer id'"):
        RawInputs(keras.Model(inputs, keras.layers.Dense(8)(inputs)), 8)


@pytest.mark.parametrize("kind", [dict, list, tuple])
def test_several_outputs_are_listed(kind):
    def outputs(x):
        one = {"pooled": x, "sequence": x[:, None]}
        return one if kind is dict else kind(one.values())

    text = {dict: r"dict with 'pooled' \(None, 8\), 'sequence'"}.get(
        kind, r"list with 0 \(None, 8\)"
    )
    with pytest.raises(ValueError, match=f"must give one tensor .*{text}.* Pick one"):
        raw("a", outputs=outputs)


def test_several_outputs_of_a_functional_encoder_are_listed():
    inputs = keras.Input((8,))
    with pytest.raises(ValueError, match="'pooled'.* Pick one"):
        RawInputs(keras.Model(inputs, {"pooled": inputs, "all": inputs[:, None]}), 8)
