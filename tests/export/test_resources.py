"""Tables and tokenizers are exported wherever an encoder, a head or a function holds them."""

import gc

import keras
import pytest
import tensorflow as tf

from mrl_keras.export import ServingOptions, export_saved_model, load

WORDS = ["river", "lake"]


def table():
    keys = tf.constant(WORDS)
    values = tf.constant([1, 2], tf.int64)
    return tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), 0)


class Plain:
    def __init__(self, inner):
        self.inner = inner


class Module(tf.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = [inner]


class Tokenizer(keras.layers.Layer):
    """A layer that holds the table two levels down."""

    def __init__(self, inner):
        super().__init__()
        self.parts, self.built = {"tables": [inner]}, True


# How a layer holds its table: (what it keeps, how it gets the table from there).
PLACES = {
    "attribute": (lambda one: one, lambda held: held),
    "list": (lambda one: [one], lambda held: held[0]),
    "nested list": (lambda one: [[one]], lambda held: held[0][0]),
    "tuple": (lambda one: (one,), lambda held: held[0]),
    "dict": (lambda one: {"a": one}, lambda held: held["a"]),
    "dict of lists": (lambda one: {"a": [one]}, lambda held: held["a"][0]),
    "module": (Module, lambda held: held.inner[0]),
    "list of modules": (lambda one: [Module(one)], lambda held: held[0].inner[0]),
    "object": (Plain, lambda held: held.inner),
    "layer": (Tokenizer, lambda held: held.parts["tables"][0]),
    "list of layers": (lambda one: [Tokenizer(one)], lambda held: held[0].parts["tables"][0]),
    "closure": (lambda one: lambda: one, lambda held: held()),
}


class Tokens(keras.layers.Layer):
    def __init__(self, held, ids):
        super().__init__()
        self.held, self.ids = held, ids

    def call(self, x):
        return tf.ensure_shape(self.ids(self.held, x), (None, 1))

    def compute_output_spec(self, x):
        return keras.KerasTensor((x.shape[0], 1), "int64")


def encoder(held, ids):
    text = keras.Input((), dtype="string", name="text")
    embedding = keras.layers.Embedding(30, 4)(Tokens(held, ids)(text))
    return keras.Model(text, keras.layers.Flatten()(embedding))


def served(folder, model, **options):
    arguments = {"options": ServingOptions(warmup_batch_sizes=(), **options)} if options else {}
    path = export_saved_model(folder / "m", model, nesting_dims=[2, 4], **arguments)
    expected = model(tf.constant(["lake", "sea"])).numpy()
    del model
    gc.collect()
    return load(path).signatures, expected


@pytest.mark.parametrize("place", PLACES)
def test_a_table_anywhere_below_the_encoder(place, tmp_path):
    hold, find = PLACES[place]
    model = encoder(hold(table()), lambda held, x: find(held).lookup(x)[:, None])
    signatures, expected = served(tmp_path, model)
    found = signatures["embed"](text=tf.constant(["lake", "sea"]))["embedding"]
    assert found.numpy().tolist() == expected.tolist()


def test_a_table_of_a_function(tmp_path):
    words = table()
    model = encoder(None, lambda held, x: tf.strings.length(x)[:, None])
    functions = {"number": lambda text: {"number": words.lookup(text)}}
    signatures, _ = served(tmp_path, model, functions=functions)
    found = signatures["number"](text=tf.constant(["lake", "sea"]))["number"]
    assert found.numpy().tolist() == [2, 0]


def test_a_tokenizer_of_tensorflow_text_in_a_list(tmp_path):
    text = pytest.importorskip("tensorflow_text")
    (tmp_path / "vocabulary").write_text("[UNK]\nriver\nlake\n")
    tokenizer = text.BertTokenizer(str(tmp_path / "vocabulary"), lower_case=True)

    def ids(held, x):
        return held[0].tokenize(x).merge_dims(1, 2).to_tensor(0, shape=(None, 1))

    signatures, expected = served(tmp_path, encoder([tokenizer], ids))
    found = signatures["embed"](text=tf.constant(["lake", "sea"]))["embedding"]
    assert found.numpy().tolist() == expected.tolist()
