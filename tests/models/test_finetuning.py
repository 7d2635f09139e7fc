import keras
import numpy as np
import pytest

from mrl_keras import MaskedLMHead
from mrl_keras.models import (
    GardenBert,
    dual_encoder,
    image_backbone,
    image_classifier,
    load_backbone,
    part_names,
    resnet,
    small_resnet,
    train_only,
)
from tests.models.test_backbones import TINY

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (8, 32, 32, 3)).astype("float32")
LABELS = np.arange(8)[:, None].repeat(2, 1) % 3  # one column for each of two prefixes


def classifier(name, dims=None):
    if name.startswith("garden:"):
        pytest.importorskip("official")
    backbone = image_backbone(name, (32, 32, 3), **TINY[name])
    width = backbone.output_shape[-1]
    return image_classifier(backbone, 3, dims or [width // 2, width])


def fit(model, steps=2):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.5), loss)
    model.fit(IMAGES, LABELS, batch_size=4, epochs=steps // 2, verbose=0)


def changed(model, run):
    """Whether each variable of a model changed while `run` ran, by number."""
    before = [np.array(keras.ops.convert_to_numpy(v)) for v in model.variables]
    variables = list(model.variables)
    run()
    return {
        i: not np.array_equal(old, keras.ops.convert_to_numpy(v))
        for i, (old, v) in enumerate(zip(before, variables, strict=True))
    }


LAST = {
    "small_convnet": "embedding",
    "small_resnet": "stage3*",
    "resnet": "stage3_block0_conv3*",
    "applications:MobileNetV2": "*block_16*",
    "garden:resnet": "stage5",
    "garden:vit": "block0",
}


@pytest.mark.parametrize("name", LAST)
@pytest.mark.slow
def test_every_backbone_freezes_by_name(name):
    model = classifier(name)
    trained = train_only(model, ["head", LAST[name]])
    assert "head" in trained
    assert 1 < len(trained) < len(part_names(model))
    live = {id(v) for v in model.trainable_variables}
    inside = variables_of(model, trained)
    moved = changed(model, lambda: fit(model))
    assert all(id(model.variables[i]) in inside for i, did in moved.items() if did)
    for part in trained:
        own = variables_of(model, [part])
        assert any(moved[i] for i, v in enumerate(model.variables) if id(v) in own), part
    train_only(model, ["*"])
    assert len(model.trainable_variables) > len(live)


def variables_of(model, names):
    """Identities of the variables of parts, moving statistics included."""
    found = set()
    for layer in model._flatten_layers(include_self=False):
        if layer.name in names:
            found |= {id(v) for v in layer.variables}
        for stage in getattr(layer, "stages", ()):
            if f"{layer.name}/{stage}" in names:
                found |= {id(v) for v in layer.stage_variables(stage)}
        if isinstance(layer, keras.Model):
            found |= variables_of(layer, [name.removeprefix(f"{layer.name}/") for name in names])
    return found


def test_frozen_batch_norm_does_not_move():
    model = classifier("small_resnet")
    statistics = [i for i, v in enumerate(model.variables) if "moving" in v.path]
    train_only(model, ["head"])
    moved = changed(model, lambda: fit(model))
    assert statistics
    assert not any(moved[i] for i in statistics)
    assert sum(moved.values()) == len(model.get_layer("head").weights)
    train_only(model, ["*"])
    moved = changed(model, lambda: fit(model))
    assert all(moved[i] for i in statistics)


def test_the_papers_steps_on_resnet50():
    steps = ["stage5_block2_conv3*", "stage5_block2_conv[23]*", "stage5_block2*", "*"]
    model = image_classifier(resnet(filters=(2, 2, 2, 2)), 10, [4, 8])
    names = part_names(model)
    counts = [len(train_only(model, ["head", step])) for step in steps]
    assert counts == [3, 5, 7, len(names)]
    assert len(names) == 2 * 53 + 1
    assert train_only(model, ["head"]) == ("head",)


def test_parts_of_nested_models_and_of_tied_heads():
    pytest.importorskip("official")
    bert = GardenBert(20, hidden_size=8, num_layers=2, num_heads=2, inner_dim=8, pooler=False)
    sizes = {"input_word_ids": 6, "input_mask": 6, "input_type_ids": 6, "positions": 2}
    inputs = {name: keras.Input((n,), dtype="int32", name=name) for name, n in sizes.items()}
    words = {name: inputs[name] for name in list(sizes)[:3]}
    hidden = bert(words)["sequence_output"]
    head = MaskedLMHead(bert, [4, 8], name="head")
    model = keras.Model(inputs, head([hidden, inputs["positions"]]))
    assert train_only(model, ["head", "block1"]) == (f"{bert.name}/block1", "head")
    assert bert.frozen == ("embeddings", "block0")
    assert not bert.embeddings.trainable
    assert head.bias.trainable
    train_only(model, ["block0"])
    assert bert.frozen == ("embeddings", "block1")
    assert bert.stage_variables("block0")[0].trainable
    assert not head.bias.trainable

    towers = [small_resnet((8, 8, 3), 4, filters=(2,)) for _ in range(2)]
    pixels = keras.Input((4,), name="words")
    text = keras.Model(pixels, keras.layers.Dense(4, name="embedding")(pixels))
    model = dual_encoder(towers[0], text, [2, 4])
    assert train_only(model, ["text_tower/*", "similarity"]) == (
        "text_tower/embedding", "similarity",
    )  # fmt: skip


def test_a_pattern_that_fits_nothing():
    model = classifier("small_resnet")
    text = r"No part is named 'fc'. The parts are stem_conv, stem_conv_bn, stage2_block0_\*, stage3"
    with pytest.raises(ValueError, match=text):
        train_only(model, ["head", "fc"])


@pytest.mark.parametrize("name", ["small_resnet", "garden:vit"])
def test_a_backbone_comes_back_and_the_head_stays(name, tmp_path):
    pretrained, model = classifier(name, [8]), classifier(name)
    fit_one = [np.asarray(w) for w in pretrained.get_layer("head").get_weights()]
    pretrained.save(tmp_path / "ff.keras")
    before = model.get_layer("head").get_weights()
    assert load_backbone(model, tmp_path / "ff.keras") == len(fit_one)
    for one, two in zip(before, model.get_layer("head").get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    embeddings = [
        keras.Model(m.input, m.get_layer("head").input)(IMAGES, training=False)
        for m in (pretrained, model)
    ]
    np.testing.assert_array_equal(*embeddings)


def test_a_model_garden_checkpoint(tmp_path):
    pytest.importorskip("official")
    tf = pytest.importorskip("tensorflow")
    source, model = classifier("garden:vit"), classifier("garden:vit")
    networks = [
        next(layer.network for layer in m._flatten_layers() if hasattr(layer, "network"))
        for m in (source, model)
    ]
    path = tf.train.Checkpoint(backbone=networks[0]).write(str(tmp_path / "ckpt"))
    load_backbone(model, path)
    for one, two in zip(*(n.variables for n in networks), strict=True):
        np.testing.assert_array_equal(one, two)


def test_weights_of_another_backbone_change_nothing(tmp_path):
    model = classifier("small_resnet")
    other = image_classifier(small_resnet((32, 32, 3), 8, filters=(4, 6)), 3, [8])
    other.save(tmp_path / "other.keras")
    moved = changed(model, lambda: refuse(model, tmp_path / "other.keras"))
    assert not any(moved.values())
    with pytest.raises(ValueError, match="There is no such file at 'nowhere'"):
        load_backbone(model, "nowhere")
    with pytest.raises(ValueError, match="number 1 must have the shape .* It has nothing"):
        load_backbone(model, [model.variables[0]])


def refuse(model, path):
    text = r"other.keras are of another backbone: number \d+ must have the shape \(3, 3, 4, 4\) of "
    with pytest.raises(ValueError, match=text):
        load_backbone(model, path)


def test_pretrained_networks_get_the_pixels_they_know():
    options = {"alpha": 0.35, "preprocessing": "own"}
    backbone = image_backbone("applications:MobileNetV2", (32, 32, 3), **options)
    expected = backbone.layers[-1](IMAGES / 127.5 - 1, training=False)
    np.testing.assert_allclose(backbone(IMAGES, training=False), expected, atol=1e-5)
    with pytest.raises(ValueError, match="`preprocessing` must be own or channels. Received 'my'"):
        image_backbone("applications:MobileNetV2", (32, 32, 3), alpha=0.35, preprocessing="my")


def test_pretrained_weights_choose_their_own_pixels(tmp_path):
    options = {"input_shape": (32, 32, 3), "alpha": 0.25}
    network = keras.applications.MobileNet(
        include_top=False, weights=None, pooling="avg", **options
    )
    path = str(tmp_path / "mobilenet.weights.h5")
    network.save_weights(path)
    backbone = image_backbone("applications:MobileNet", (32, 32, 3), weights=path, alpha=0.25)
    pixels = keras.applications.mobilenet.preprocess_input(IMAGES.copy())
    expected = network(pixels, training=False)
    np.testing.assert_allclose(backbone(IMAGES, training=False), expected, rtol=1e-4, atol=1e-4)
