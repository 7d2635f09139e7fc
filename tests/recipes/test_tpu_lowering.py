"""The script that lowers recipes for TPU, run for XLA's CPU platform: no TPU build is needed."""

import pathlib

import keras
import pytest
import tensorflow as tf

from recipes.benchmarks import tpu_lowering


@pytest.fixture(autouse=True)
def policy():
    yield
    keras.config.set_dtype_policy("float32")


def run(*arguments):
    tpu_lowering.main(tpu_lowering.parse_arguments(list(arguments)))


def test_it_finds_every_config():
    folder = pathlib.Path(tpu_lowering.__file__).parents[1] / "configs"
    helpers = {"__init__", *(path.stem for path in folder.glob("*defaults.py"))}
    names = {path.stem for path in folder.glob("*.py")} - helpers
    assert set(tpu_lowering.config_names()) == names
    assert {"cifar10_resnet", "resnet50_imagenet"} <= names


@pytest.mark.slow
def test_a_recipe_lowers_and_strings_do_not(capsys):
    run("--configs", "cifar10_resnet", "--platform", "CPU")
    lines = capsys.readouterr().out.splitlines()
    assert "as_string fails, as it should" in lines[1]
    parts = [line.split()[:4] for line in lines[2:]]
    assert parts == [
        ["cifar10_resnet", "tiny", "forward", "ok"],
        ["cifar10_resnet", "tiny", "gradients", "ok"],
    ]
    # 7 convolutions and 4 heads forward; each needs two more for its gradients, the first one.
    assert "11/11   dots in bf16, no f64" in lines[2]
    assert "32/32   dots in bf16, no f64" in lines[3]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wikitext2_mlm", "cifar10_finetune", "resnet50_finetune"])
def test_full_sizes_lower(name, capsys):
    # bert_base_mlm takes minutes: the script's own command has it.
    run("--configs", name, "--sizes", "full", "--platform", "CPU")
    parts = [line.split()[:4] for line in capsys.readouterr().out.splitlines()[2:]]
    assert parts == [[name, "full", part, "ok"] for part in ("forward", "gradients")]


def test_full_size_keeps_model_and_batch():
    config = tpu_lowering.sized_config("resnet50_imagenet", "full", "mixed_bfloat16")
    assert (config.batch_size, tuple(config.data.made_shape)) == (512, (192, 192, 3))
    assert (tuple(config.model.options.blocks), config.data.made_classes) == ((3, 4, 6, 3), 1000)


def test_what_does_not_lower_fails_with_a_line(monkeypatch, capsys):
    def with_strings(self):
        spec = tf.TensorSpec((2,), tf.float32)
        return lambda x: tf.strings.to_number(tf.strings.as_string(x)), [spec]

    monkeypatch.setattr(tpu_lowering.Graphs, "forward", with_strings)
    monkeypatch.setattr(tpu_lowering.Graphs, "gradients", lambda self: _raise())
    with pytest.raises(SystemExit, match="error: 2 graphs failed"):
        run("--configs", "cifar10_resnet", "--platform", "CPU")
    lines = capsys.readouterr().out.splitlines()
    assert "FAILED" in lines[2]
    assert "AsString" in lines[2]
    assert "FAILED ValueError: no gradient" in lines[3]


def _raise():
    raise ValueError("no gradient\nsecond line")


def test_float64_is_a_failure():
    text = "%a.1 = bf16[2,3]{1,0} dot(%x)\n%b.2 = f64[2]{0} convolution(%y)\n"
    assert tpu_lowering.report(text) == ("   1/2    dots in bf16, 1 f64", False)


def test_a_tensorflow_without_the_platform_is_one_line():
    with pytest.raises(SystemExit, match="lowers nothing for TPU .* Install tensorflow-tpu"):
        run("--configs", "cifar10_resnet")
