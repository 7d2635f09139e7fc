import keras
import ml_collections
import numpy as np
import pytest

from recipes.common.optimizers import MomentumSGD, Schedule, optimizer


def config(steps=100, gradient_accumulation=1, **values):
    values = {"name": "sgd", "learning_rate": 0.5, **values}
    return ml_collections.ConfigDict(
        {"steps": steps, "gradient_accumulation": gradient_accumulation, "optimizer": values}
    )


def rates(name, steps, **values):
    schedule = Schedule(name, 0.5, 100, **values)
    return [float(schedule(np.int64(step))) for step in steps]


class TestSchedule:
    def test_triangular_is_numpys_interpolation_of_ffcv(self):
        steps = np.arange(0, 121, 5)
        expected = np.interp(steps, [0, 20, 100], [0.5e-4, 0.5, 0])
        np.testing.assert_allclose(rates("triangular", steps, warmup_steps=20), expected, atol=1e-7)

    def test_ways_down(self):
        steps = [0, 10, 55, 100, 200]
        np.testing.assert_allclose(
            rates("linear", steps, warmup_steps=10), [0, 0.5, 0.25, 0, 0], atol=1e-7
        )
        np.testing.assert_allclose(
            rates("cosine", [0, 25, 50, 100]), [0.5, 0.25 * (1 + 0.5**0.5), 0.25, 0], atol=1e-7
        )
        np.testing.assert_allclose(
            rates("constant", steps, warmup_steps=20), [0, 0.25, 0.5, 0.5, 0.5], atol=1e-7
        )

    def test_round_trip(self):
        schedule = Schedule("cosine", 0.1, 50, 5)
        again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
        assert again.get_config() == schedule.get_config()


def update(made, variables, gradients, times=3):
    for _ in range(times):
        made.apply(gradients, variables)
    return [keras.ops.convert_to_numpy(v) for v in variables]


def test_sgd_decays_kernels_through_the_momentum():
    kernel, bias = np.array([[1.0, -2.0]], "float32"), np.array([3.0], "float32")
    variables = [keras.Variable(kernel), keras.Variable(bias)]
    made = optimizer(config(learning_rate=0.1, weight_decay=0.01, nesterov=False), variables)
    got = update(made, variables, [keras.ops.ones((1, 2)), keras.ops.ones((1,))])
    expected = []
    for value, l2 in ((kernel, 0.01), (bias, 0.0)):
        velocity = 0
        for _ in range(3):
            velocity = 0.9 * velocity + 1 + l2 * value
            value = value - 0.1 * velocity
        expected.append(value)
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-6)
    np.testing.assert_allclose(got[1], expected[1], rtol=1e-6)


@pytest.mark.parametrize("name", ["adam", "adamw", "adafactor"])
def test_decay_leaves_vectors_alone(name):
    after = {}
    for decay in (0.0, 0.1):
        variables = [keras.Variable(np.ones((2, 2), "float32")), keras.Variable(np.ones(2))]
        made = optimizer(config(name=name, learning_rate=0.1, weight_decay=decay), variables)
        after[decay] = update(made, variables, [keras.ops.ones((2, 2)), keras.ops.ones((2,))])
    assert np.all(after[0.1][0] < after[0.0][0])
    np.testing.assert_array_equal(after[0.1][1], after[0.0][1])


def test_accumulated_gradients_are_the_mean_of_the_batches():
    variable = keras.Variable(np.zeros((1, 1), "float32"))
    made = optimizer(config(gradient_accumulation=2, momentum=0.0), [variable])
    for gradient in (1.0, 3.0):
        assert float(variable[0, 0]) == 0.0
        made.apply([keras.ops.full((1, 1), gradient)], [variable])
    assert float(variable[0, 0]) == -0.5 * 2.0


def test_round_trip_of_sgd():
    made = MomentumSGD(Schedule("linear", 0.1, 10), l2=0.5)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(made))
    assert again.l2 == 0.5
    assert again.get_config() == made.get_config()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "lion"}, "`optimizer.name` must be one of sgd, adam, adamw, adafactor"),
        ({"schedule": "step"}, "`optimizer.schedule` must be one of constant"),
        ({"beta_1": 0.9}, "`optimizer` 'sgd' needs learning_rate, and may have clip_norm"),
        ({"learning_rate": 0.0}, "`optimizer.learning_rate` must be a number above 0"),
        ({"learning_rate": "high"}, "Received 'high'"),
        ({"weight_decay": -1.0}, "`optimizer.weight_decay` must be a number at least 0"),
        ({"warmup_steps": 100}, "`optimizer.warmup_steps` must be below `steps`, 100"),
        ({"gradient_accumulation": 0}, "`gradient_accumulation` must be at least 1"),
    ],
)
def test_wrong_values(values, message):
    with pytest.raises(ValueError, match=message):
        optimizer(config(**values), [])
