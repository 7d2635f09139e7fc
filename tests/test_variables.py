import keras
import pytest

from mrl_keras.variables import model_variables, number_from_zero, optimizer_variables


def model(name="sub"):
    inner = keras.Sequential([keras.layers.Dense(2), keras.layers.Dropout(0.5)], name=name)
    inputs = keras.Input((2,))
    outputs = keras.layers.Dense(2)(keras.layers.Dense(2)(inner(inputs)))
    outputs = keras.layers.BatchNormalization()(keras.layers.Dropout(0.1)(outputs))
    made = keras.Model(inputs, inner(outputs))
    made.compile("adam", "mse", metrics=["mae"])
    made.optimizer.build(made.trainable_variables)
    return made


NAMES = [
    "sub/dense/kernel",
    "sub/dense/bias",
    "sub/dropout/seed_generator_state",
    "dense/kernel",
    "dense/bias",
    "dense_1/kernel",
    "dense_1/bias",
    "dropout/seed_generator_state",
    "batch_normalization/gamma",
    "batch_normalization/beta",
    "batch_normalization/moving_mean",
    "batch_normalization/moving_variance",
]


def test_names_do_not_depend_on_what_a_process_made_before():
    for _ in range(3):
        found = model_variables(one := model())
        assert sorted(found) == sorted(NAMES)
        assert [id(v) for v in found.values()] == [id(v) for v in one.variables]
        slots = optimizer_variables(one.optimizer, {id(v): k for k, v in found.items()})
        assert list(slots)[:4] == [
            "iteration",
            "learning_rate",
            "sub/dense/kernel/momentums",
            "sub/dense/kernel/velocities",
        ]
        assert [id(v) for v in slots.values()] == [id(v) for v in one.optimizer.variables]


def test_paths_of_keras_do():
    assert [v.path for v in model().variables] != [v.path for v in model().variables]


class Repeating(keras.layers.Layer):
    """Two variables of one name, two without one, two generators of seeds, and a shared layer."""

    def __init__(self, shared, **kwargs):
        super().__init__(**kwargs)
        self.one, self.two = (self.add_weight((2,), name="same") for _ in range(2))
        self.three, self.four = keras.Variable([0.0]), keras.Variable([1.0])
        self.seeds = [keras.random.SeedGenerator(1), keras.random.SeedGenerator(2)]
        self.shared, self.again = shared, keras.layers.Dense(2, name=shared.name)

    def call(self, x):
        return self.again(self.shared(x)) + self.one + self.two + self.three + self.four


def test_names_that_repeat_are_numbered():
    for _ in range(2):
        dense, inputs = keras.layers.Dense(2, name="table"), keras.Input((2,))
        made = keras.Model(inputs, Repeating(dense, name="tied")(dense(inputs)))
        found = model_variables(made)
        assert list(found) == [
            "table/kernel",
            "table/bias",
            "tied/same",
            "tied/same#2",
            "tied/variable",
            "tied/variable_1",
            "tied/seed_generator_state",
            "tied/seed_generator_state#2",
            "tied/table#2/kernel",
            "tied/table#2/bias",
        ]
        assert found["tied/variable_1"].numpy() == [1.0]


@pytest.mark.parametrize(
    ("optimizer", "slots"),
    [
        (keras.optimizers.SGD(0.1), []),
        (keras.optimizers.SGD(0.1, momentum=0.9), ["momentums"]),
        (keras.optimizers.Adafactor(0.1), ["r", "c", "v"]),
        (keras.optimizers.Adam(0.1, amsgrad=True), ["momentums", "velocities", "velocity_hats"]),
        (keras.optimizers.LossScaleOptimizer(keras.optimizers.RMSprop(0.1)), ["velocities"]),
        (
            keras.optimizers.SGD(0.1, gradient_accumulation_steps=2, use_ema=True),
            ["accumulated_gradients", "model_variables_moving_average"],
        ),
    ],
)
def test_slots_have_the_names_of_their_variables(optimizer, slots):
    variables = [keras.Variable([[0.0, 1.0]], name="kernel") for _ in range(3)]
    names = {id(v): f"layer{i}/kernel" for i, v in enumerate(variables)}
    optimizer.build(variables)
    found = optimizer_variables(optimizer, names)
    assert len(found) == len(optimizer.variables)
    assert {key for key in found if key.startswith("layer")} == {
        f"layer{i}/kernel/{slot}" for i in range(3) for slot in slots
    }


def test_numbers_are_ranks():
    names = ["conv_9", "conv_11", "conv_2", "head_8", "conv", "9"]
    assert number_from_zero(names, "conv") == ["conv_2", "conv_3", "conv_1", "head_8", "conv", "9"]
    assert number_from_zero(["bias_4", "bias_8"], "dense") == ["bias_4", "bias_8"]
