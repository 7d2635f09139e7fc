"""What every public layer, loss and metric promises, as one helper for each kind.

The helpers demand that every constructor argument has a non-default value, so that an
argument missing from `get_config` cannot hide behind its default.
"""

import inspect
import json
import os
import tempfile

import keras
import numpy as np

NOT_ARGUMENTS = ("self", "args", "kwargs")
# On torch `jit_compile` means torch.compile, which needs a C++ toolchain at run time.
JIT_COMPILE = (False,) if keras.backend.backend() == "torch" else (False, True)


def run_layer_contract(cls, arguments, inputs, *, dtypes=("mixed_bfloat16", "mixed_float16")):
    """Everything DESIGN's rules ask of a layer. `inputs` is an array or a list of arrays."""
    check_every_argument_is_given(cls, arguments)
    layer = check_config_round_trip(cls, arguments)
    check_shapes_agree(layer, inputs)
    for jit_compile in JIT_COMPILE:
        check_fit_and_reload(cls, arguments, inputs, jit_compile)
    for dtype in dtypes:
        check_mixed_precision(cls, arguments, inputs, dtype)


def run_loss_contract(cls, arguments, y_true, y_pred):
    """Config with dtype, `compile` by instance, reload, reduction None, and jit."""
    check_every_argument_is_given(cls, arguments)
    loss = check_config_round_trip(cls, arguments)
    value = loss(y_true, y_pred)
    assert keras.backend.standardize_dtype(value.dtype) == arguments["dtype"]
    revived = cls.from_config(loss.get_config())
    np.testing.assert_array_equal(as_numpy(value), as_numpy(revived(y_true, y_pred)))

    plain = cls(**{**arguments, "reduction": None, "dtype": "float32"})
    per_sample = as_numpy(plain(y_true, y_pred))
    assert per_sample.shape == (len(y_pred),)
    for jit_compile in JIT_COMPILE:
        model = keras.Sequential([keras.Input(y_pred.shape[1:]), Offset()])
        model.compile("sgd", loss=cls(**{**arguments, "dtype": "float32"}), jit_compile=jit_compile)
        history = model.fit(y_pred, y_true, batch_size=len(y_pred), verbose=0).history
        np.testing.assert_allclose(
            history["loss"][0], _reduced(per_sample, arguments["reduction"]), rtol=2e-5
        )
        assert np.abs(as_numpy(model.layers[-1].offset)).max() > 0, "no gradient came through"


def run_metric_contract(cls, arguments, y_true, y_pred):
    """Config, two batches then reset, sample weights, and use in `evaluate`."""
    check_every_argument_is_given(cls, arguments)
    metric = check_config_round_trip(cls, arguments)
    metric.update_state(y_true, y_pred)
    once = float(metric.result())
    metric.update_state(y_true, y_pred)
    np.testing.assert_allclose(float(metric.result()), once, rtol=1e-6)
    metric.reset_state()
    half = len(y_pred) // 2
    for part in (slice(None, half), slice(half, None)):
        metric.update_state(y_true[part], y_pred[part])
    np.testing.assert_allclose(float(metric.result()), once, rtol=1e-6)
    metric.reset_state()
    mask = np.arange(len(y_pred)) < half
    metric.update_state(y_true, y_pred, sample_weight=mask.astype("float32"))
    weighted = float(metric.result())
    metric.reset_state()
    metric.update_state(y_true[mask], y_pred[mask])
    np.testing.assert_allclose(weighted, float(metric.result()), rtol=1e-6)

    model = keras.Sequential([keras.Input(y_pred.shape[1:]), Offset()])
    model.compile(loss=lambda _, outputs: keras.ops.sum(outputs), metrics=[cls(**arguments)])
    found = model.evaluate(y_pred, np.asarray(y_true), batch_size=2, verbose=0, return_dict=True)
    np.testing.assert_allclose(found[arguments["name"]], once, rtol=1e-5)


def check_every_argument_is_given(cls, arguments):
    """Each argument of the constructor appears with a value that differs from its default."""
    parameters = inspect.signature(cls.__init__).parameters
    for name, parameter in parameters.items():
        if name in NOT_ARGUMENTS:
            continue
        assert name in arguments, f"{cls.__name__}: the contract test leaves out {name!r}"
        given, default = arguments[name], parameter.default
        is_default = given is default or (np.isscalar(given) and given == default)
        assert not is_default, f"{cls.__name__}: the contract test gives {name!r} its default"


def check_config_round_trip(cls, arguments):
    """The config holds every argument, passes through JSON text, and revives an equal object."""
    made = cls(**arguments)
    config = made.get_config()
    for name in inspect.signature(cls.__init__).parameters:
        if name not in NOT_ARGUMENTS:
            assert hasattr(made, name), f"{cls.__name__} has no attribute {name!r}"
            assert name in config, f"{cls.__name__}.get_config lacks {name!r}"
    revived = keras.saving.deserialize_keras_object(
        json.loads(json.dumps(keras.saving.serialize_keras_object(made)))
    )
    assert type(revived) is cls
    assert revived.get_config() == config
    assert set(vars(revived)) == set(vars(made))
    return made


def check_shapes_agree(layer, inputs):
    """compute_output_shape, the symbolic call and the eager call tell one shape."""
    static = _map(inputs, lambda array: array.shape)
    symbolic = layer(_map(inputs, lambda array: keras.Input(array.shape[1:])))
    eager = layer(inputs)
    assert tuple(layer.compute_output_shape(static)) == tuple(eager.shape)
    assert tuple(symbolic.shape)[1:] == tuple(eager.shape)[1:]
    assert np.isfinite(as_numpy(eager)).all()


def check_fit_and_reload(cls, arguments, inputs, jit_compile):
    """One training step changes every weight; the saved model answers as before."""
    model = _model(cls, arguments, inputs)
    model.compile("sgd", loss="mse", jit_compile=jit_compile)
    before = [as_numpy(weight) for weight in model.trainable_weights]
    batch = len(_first(inputs))
    target = np.full(tuple(model.compute_output_shape(_shapes(inputs))), 3.0, "float32")
    run = model.fit if model.trainable_weights else model.evaluate
    run(inputs, target, batch_size=batch, verbose=0)
    for weight, old in zip(model.trainable_weights, before, strict=True):
        assert np.abs(as_numpy(weight) - old).max() > 0, f"{weight.path} was not trained"
    expected = model.predict(inputs, batch_size=batch, verbose=0)
    revived = save_and_load(model)
    np.testing.assert_array_equal(revived.predict(inputs, batch_size=batch, verbose=0), expected)


def check_mixed_precision(cls, arguments, inputs, dtype):
    layer = cls(**{**arguments, "dtype": dtype})
    output = layer(inputs)
    assert layer.dtype_policy.name == dtype
    assert keras.backend.standardize_dtype(output.dtype) == layer.compute_dtype
    assert np.isfinite(as_numpy(output)).all()
    for weight in layer.weights:
        assert weight.dtype == "float32"


def save_and_load(model):
    """The model after a `.keras` round trip without custom objects."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.keras")
        model.save(path)
        return keras.saving.load_model(path)


def as_numpy(tensor):
    return np.array(keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32")))


class Offset(keras.layers.Layer):
    """Adds one trainable tensor to its input, so that a loss can be trained on given outputs."""

    def build(self, input_shape):
        self.offset = self.add_weight(shape=tuple(input_shape[1:]), initializer="zeros")

    def call(self, inputs):
        return inputs + self.offset


def _model(cls, arguments, inputs):
    given = _map(inputs, lambda array: keras.Input(array.shape[1:]))
    return keras.Model(given, cls(**{**arguments, "dtype": "float32"})(given))


def _map(inputs, function):
    return [function(array) for array in inputs] if isinstance(inputs, list) else function(inputs)


def _first(inputs):
    return inputs[0] if isinstance(inputs, list) else inputs


def _shapes(inputs):
    return _map(inputs, lambda array: array.shape)


def _reduced(per_sample, reduction):
    return per_sample.sum() if reduction == "sum" else per_sample.mean()
