"""Model Garden's networks as Keras layers: trained, frozen, saved and loaded like any layer."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrl_keras import MatryoshkaDense, MatryoshkaLoss
from mrl_keras.models import GardenBert, GardenResNet, GardenViT
from tests.support.remote import new_folder

pytest.importorskip("official")

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(-1, 1, (8, 32, 32, 3)).astype("float32")
WORDS = {
    "input_word_ids": RNG.integers(1, 50, (8, 6)).astype("int32"),
    "input_mask": np.ones((8, 6), "int32"),
    "input_type_ids": np.zeros((8, 6), "int32"),
}
LABELS = np.arange(8) % 3


def resnet(**options):
    return GardenResNet(18, depth_multiplier=0.125, **options)


def vit(**options):
    sizes = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "mlp_dim": 32}
    return GardenViT(8, image_shape=(32, 32, 3), **sizes, **options)


def bert(**options):
    return GardenBert(50, hidden_size=16, num_layers=2, num_heads=2, inner_dim=32, **options)


KINDS = {"resnet": (resnet, IMAGES), "vit": (vit, IMAGES), "bert": (bert, WORDS)}
each = pytest.mark.parametrize("kind", KINDS)


def classifier(kind, dtype=None, **options):
    keras.utils.set_random_seed(1)
    make, data = KINDS[kind]
    backbone = make(**options, **({"dtype": dtype} if dtype else {}))
    inputs = keras.tree.map_structure(
        lambda array: keras.Input(array.shape[1:], dtype=array.dtype.name), data
    )
    if isinstance(data, dict):
        inputs = {name: keras.Input((6,), dtype="int32", name=name) for name in data}
    embedding = backbone(inputs)
    embedding = embedding["pooled_output"] if isinstance(embedding, dict) else embedding
    width = embedding.shape[-1]
    logits = MatryoshkaDense(3, [width // 2, width], dtype="float32")(embedding)
    model = keras.Model(inputs, logits)
    inner = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05), loss=MatryoshkaLoss(inner), jit_compile=False)
    return model, backbone, data


@pytest.fixture(scope="module", params=KINDS)
def built(request):
    """(model, backbone, data) of each kind, shared by the tests that train it on."""
    return classifier(request.param)


@pytest.fixture
def trainable(built):
    """`built` with everything trained, whatever an earlier test froze."""
    model, backbone, _ = built
    backbone.frozen, backbone.trainable = (), True
    model.compile("sgd", loss=model.loss, jit_compile=False)
    return built


def numbers(variables):
    return [np.asarray(v).copy() for v in variables]


def changed(before, variables):
    return [not np.array_equal(b, np.asarray(v)) for b, v in zip(before, variables, strict=True)]


def test_a_config_of_earlier_files_loads_and_every_option_returns():
    """The options were arguments of the constructor; the config is what it was."""
    options = {
        "stem_type": "v1", "resnetd_shortcut": True, "replace_stem_max_pool": True,
        "se_ratio": 0.25, "stochastic_depth": 0.1, "activation": "swish", "synchronized": False,
        "norm_momentum": 0.8, "norm_epsilon": 1e-3,
    }  # fmt: skip
    arguments = {
        "model_id": 18, "depth_multiplier": 0.125, "last_stage": 3, "pooling": None,
        "image_shape": [32, 32, 3], "l2": 0.5, "frozen": ["stem"],
    }  # fmt: skip
    config = {"name": "r", "trainable": True, "dtype": "float32", **arguments, **options}
    layer = GardenResNet.from_config(config)
    assert {name: getattr(layer, name) for name in options} == options
    found = layer.get_config()
    assert {name: found[name] for name in {**arguments, **options}} == {**arguments, **options}
    with pytest.raises(ValueError, match=r"Unrecognized keyword arguments.*depth"):
        GardenResNet(18, depth=3)


@pytest.mark.slow
def test_training_reaches_every_weight_and_statistic(trainable):
    model, backbone, data = trainable
    backbone.frozen = backbone.stages
    assert backbone.trainable_variables == []
    backbone.frozen = ()
    model.compile("sgd", loss=model.loss, jit_compile=False)
    before = numbers(backbone.trainable_variables)
    statistics = numbers(backbone.non_trainable_variables)
    model.fit(data, LABELS, batch_size=4, epochs=2, verbose=0)
    assert all(changed(before, backbone.trainable_variables))
    assert any(changed(statistics, backbone.non_trainable_variables)) == isinstance(
        backbone, GardenResNet
    )


def blocks_of(whole, depth, others):
    """The weights of the first `depth` blocks and of the stages `others`, by name."""
    kept = [variable for stage in others for variable in whole.stage_variables(stage)]
    kept += [v for number in range(depth) for v in whole.stage_variables(f"block{number}")]
    return {variable.name: np.asarray(variable) for variable in kept}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "options"),
    [("vit", {}), ("vit", {"pooler": "gap"}), ("bert", {"pooler": False})],
    ids=["token", "gap", "bert"],
)
def test_the_output_of_a_layer_is_that_of_a_network_that_ends_there(kind, options):
    make, data = KINDS[kind]
    keras.utils.set_random_seed(2)
    whole = make(output_layers=[1, 2], **options)
    if kind == "vit":
        shorter = GardenViT(
            8, image_shape=(32, 32, 3), hidden_size=16, num_layers=1, num_heads=2, mlp_dim=32,
            **options,
        )  # fmt: skip
        others = ("stem", "norm")
    else:
        sizes = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "inner_dim": 32}
        shorter, others = GardenBert(50, **sizes, **options), ("embeddings",)
    weights = blocks_of(whole, 1, others)
    assert {variable.name for variable in shorter.variables} == set(weights)
    for variable in shorter.variables:
        variable.assign(weights[variable.name])
    alone = make(**options)  # the same network without the outputs in between
    assert [v.name for v in alone.variables] == [v.name for v in whole.variables]
    alone.set_weights(whole.get_weights())

    found = whole(data)
    for name, network in (("layer1", shorter), ("layer2", alone)):
        wanted = network(data)
        wanted = wanted["sequence_output"] if kind == "bert" else wanted
        np.testing.assert_allclose(np.asarray(found[name]), np.asarray(wanted), atol=1e-5)
    inputs = keras.tree.map_structure(lambda array: array.shape, data)
    if kind == "vit":
        assert whole.compute_output_shape(inputs) == {n: x.shape for n, x in found.items()}
    assert whole.get_config()["output_layers"] == (1, 2)


@pytest.mark.parametrize("kind", ["vit", "bert"])
def test_training_reaches_dropout(kind):
    make, data = KINDS[kind]
    backbone = make(dropout=0.5)

    def answer(training):
        found = backbone(data, training=training)
        return np.asarray(found["pooled_output"] if isinstance(found, dict) else found)

    np.testing.assert_array_equal(answer(False), answer(False))
    assert np.abs(answer(True) - answer(True)).max() > 1e-3


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_regularisation_arrives_once(kind):
    _, backbone, _ = classifier(kind, l2=0.5)
    squares = sum(
        float(np.sum(np.square(np.asarray(v))))
        for v in backbone.trainable_variables
        if v.regularizer is not None
    )
    assert squares > 0
    total = float(sum(np.asarray(loss) for loss in backbone.losses))
    assert total == pytest.approx(0.5 * squares, rel=1e-4)


def test_every_variable_is_in_one_stage(trainable):
    _, backbone, _ = trainable
    inside = [id(v) for stage in backbone.stages for v in backbone.stage_variables(stage)]
    assert sorted(inside) == sorted(id(v) for v in backbone.variables)


@pytest.mark.slow
def test_frozen_stages_stay_as_they_are(trainable):
    model, backbone, data = trainable
    first, last = backbone.stages[0], backbone.stages[-1]
    backbone.frozen = [first]
    model.compile("sgd", loss=model.loss, jit_compile=False)
    still, moving = (numbers(backbone.stage_variables(name)) for name in (first, last))
    assert still
    assert moving
    model.fit(data, LABELS, batch_size=4, verbose=0)
    assert not any(changed(still, backbone.stage_variables(first)))
    assert any(changed(moving, backbone.stage_variables(last)))


def test_nothing_moves_where_trainable_is_false(trainable):
    model, backbone, data = trainable
    backbone.trainable = False
    assert backbone.trainable_variables == []
    model.compile("sgd", loss=model.loss, jit_compile=False)
    before = numbers(backbone.variables)
    model.fit(data, LABELS, batch_size=4, verbose=0)
    assert not any(changed(before, backbone.variables))


@pytest.mark.slow
def test_a_keras_file_and_an_export_answer_alike(trainable, tmp_path):
    model, _, data = trainable
    expected = model.predict(data, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.predict(data, verbose=0), expected, atol=1e-6)
    again.fit(data, LABELS, batch_size=4, verbose=0)  # trains on
    model.export(tmp_path / "exported", verbose=False)
    served = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(served.serve(data), expected, atol=1e-5)


@pytest.mark.slow
@each
def test_xla_trains_to_the_same_weights(kind):
    model, backbone, data = classifier(kind, **no_dropout(kind))
    start, found = model.get_weights(), []
    for jit_compile in (False, True):
        model.set_weights(start)
        model.compile(keras.optimizers.SGD(0.05), loss=model.loss, jit_compile=jit_compile)
        model.fit(data, LABELS, batch_size=8, shuffle=False, verbose=0)
        found.append(numbers(backbone.trainable_variables))
    for one, two in zip(*found, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-3, atol=1e-4)


def no_dropout(kind):
    return {} if kind == "resnet" else {"dropout": 0.0, "attention_dropout": 0.0}


@each
@pytest.mark.slow
def test_mixed_bfloat16_keeps_float32_weights(kind):
    model, backbone, data = classifier(kind, dtype="mixed_bfloat16")
    assert {v.dtype for v in backbone.trainable_variables} == {"float32"}
    found = backbone(data)
    found = found["pooled_output"] if isinstance(found, dict) else found
    assert found.dtype == "bfloat16"
    before = numbers(backbone.trainable_variables)
    history = model.fit(data, LABELS, batch_size=4, verbose=0).history
    assert np.isfinite(history["loss"][0])
    assert any(changed(before, backbone.trainable_variables))


@pytest.mark.parametrize("place", ["backbone", "encoder", "model"])
def test_model_gardens_checkpoints_are_read(built, place, tmp_path):
    _, backbone, _ = built
    path = tf.train.Checkpoint(**{place: backbone.network}).save(str(tmp_path / "checkpoint"))
    wanted = numbers(backbone.variables)
    for variable in backbone.variables:
        variable.assign(np.ones(variable.shape, variable.dtype))
    backbone.load_checkpoint(path)
    assert not any(changed(wanted, backbone.variables))


def test_model_gardens_checkpoints_are_read_from_remote_folders(built):
    _, backbone, _ = built
    folder = new_folder()
    tf.train.Checkpoint(backbone=backbone.network).save(f"{folder}/checkpoint")
    wanted = numbers(backbone.variables)
    for variable in backbone.variables:
        variable.assign(np.ones(variable.shape, variable.dtype))
    backbone.load_checkpoint(folder)
    assert not any(changed(wanted, backbone.variables))


def test_checkpoints_of_another_network_leave_the_weights(tmp_path):
    path = tf.train.Checkpoint(backbone=resnet().network).save(str(tmp_path / "checkpoint"))
    other = GardenResNet(18, depth_multiplier=0.25)
    before = numbers(other.variables)
    with pytest.raises(ValueError, match="checkpoint"):
        other.load_checkpoint(path)
    assert not any(changed(before, other.variables))
    with pytest.raises(ValueError, match="No checkpoint at"):
        other.load_checkpoint(str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: resnet(frozen=["stage9"]), r"`frozen` must be names of stem, .* \['stage9'\]"),
        (lambda: resnet(dtype="int32"), "`dtype` must be one of float32"),
        (lambda: vit(output_layers=[3]), r"from 1 to 2. Received \[3\]"),
        (lambda: bert(output_layers=[2, 1]), "must be ascending numbers of blocks"),
        (lambda: bert(l2=0.1), "`l2` must be 0: Model Garden's BERT regularises nothing"),
        (lambda: resnet(l2=-1.0), "`l2` must be a finite number, at least 0. Received -1.0"),
        (lambda: GardenResNet(19), "Received 19"),
        (lambda: GardenViT(8, hidden_size=16, num_heads=3), "`num_heads` must divide"),
        (lambda: bert()(IMAGES), "GardenBert takes a dict of input_word_ids"),
        (lambda: resnet().stage_variables("head"), "`name` must be one of stem"),
    ],
)
def test_refusals(make, text):
    with pytest.raises(ValueError, match=text):
        make()
