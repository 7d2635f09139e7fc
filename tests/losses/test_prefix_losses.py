"""A loss and targets for each prefix, and a prefix that learns from the full width."""

import keras
import numpy as np
import pytest

from mrl_keras import (
    MatryoshkaDense,
    MatryoshkaLoss,
    PrefixLosses,
    SelfDistillation,
    SmoothedSparseCategoricalCrossentropy,
    per_prefix,
    stack_targets,
)
from mrl_keras.losses.self_distillation import distillation
from tests.support import oracles
from tests.support.backend import gradients, numerical_gradient
from tests.support.contracts import (
    as_numpy,
    check_config_round_trip,
    check_every_argument_is_given,
    run_loss_contract,
    save_and_load,
)

DIMS = [2, 4, 8]
RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal((6, 3, 4)).astype("float32")
FINE = RNG.integers(0, 4, 6)
COARSE = FINE // 2
TARGETS = {2: COARSE, 4: COARSE, 8: FINE}


def sparse():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def crossentropy(labels, position):
    return oracles.softmax_crossentropy(oracles.one_hot(labels, 4), LOGITS[:, position])


def divergence(logits, teacher, temperature):
    """T^2 KL of the last axis, from the probabilities themselves."""
    q, p = (np.exp(x / temperature) for x in (logits, teacher))
    q, p = (x / x.sum(-1, keepdims=True) for x in (q, p))
    return temperature**2 * (p * np.log(p / q)).sum(-1)


def test_contract_of_a_loss_for_each_prefix():
    arguments = {
        "nesting_dims": DIMS,
        "losses": {4: SmoothedSparseCategoricalCrossentropy(0.2)},
        "default": sparse(),
        "own_targets": True,
    }
    check_every_argument_is_given(PrefixLosses, arguments)
    check_config_round_trip(PrefixLosses, arguments)
    nested = {
        "loss": PrefixLosses(**arguments),
        "relative_importance": [2.0, 0.5, 1.0],
        "prefix_reduction": "mean",
        "reduction": "sum",
        "name": "nested",
        "dtype": "float16",
    }
    labels = np.stack([COARSE, COARSE, FINE], axis=1)
    run_loss_contract(MatryoshkaLoss, nested, labels, LOGITS)


def test_each_prefix_has_its_loss_and_its_targets():
    smoothed = SmoothedSparseCategoricalCrossentropy(0.2)
    inner = PrefixLosses(DIMS, {8: smoothed}, default=sparse(), own_targets=True)
    loss = MatryoshkaLoss(inner, [2.0, 1.0, 0.5], reduction=None)
    wide = oracles.softmax_crossentropy(oracles.one_hot(FINE, 4, 0.2), LOGITS[:, 2])
    wanted = 2.0 * crossentropy(COARSE, 0) + crossentropy(COARSE, 1) + 0.5 * wide
    np.testing.assert_allclose(as_numpy(loss(TARGETS, LOGITS)), wanted, rtol=1e-5)
    stacked = stack_targets(TARGETS, DIMS)
    np.testing.assert_allclose(as_numpy(loss(stacked, LOGITS)), wanted, rtol=1e-5)


def test_dense_targets_and_more_leading_axes():
    targets = {dim: RNG.random((6, 5, 4)).astype("float32") for dim in DIMS}
    nested = RNG.standard_normal((6, 5, 3, 4)).astype("float32")
    loss = MatryoshkaLoss(PrefixLosses(DIMS, default="mse", own_targets=True), reduction=None)
    parts = [((nested[:, :, i] - targets[dim]) ** 2).mean(-1) for i, dim in enumerate(DIMS)]
    np.testing.assert_allclose(as_numpy(loss(targets, nested)), sum(parts), rtol=1e-5)
    stacked = stack_targets(targets, DIMS, axis=2)
    assert tuple(stacked.shape) == (6, 5, 3, 4)
    np.testing.assert_allclose(as_numpy(loss(stacked, nested)), sum(parts), rtol=1e-5)


@pytest.mark.slow
def test_fit_logs_the_right_loss_for_each_dim():
    keras.utils.set_random_seed(0)
    x = RNG.standard_normal((6, 8)).astype("float32")
    made = keras.Sequential([keras.Input((8,)), MatryoshkaDense(4, DIMS)])
    losses = {4: SelfDistillation(sparse(), weight=2.0), 8: sparse()}
    inner = PrefixLosses(DIMS, losses, default=SelfDistillation(None), own_targets=True)
    loss = MatryoshkaLoss(inner)
    accuracy = per_prefix("sparse_categorical_accuracy", DIMS, own_targets=True)
    made.compile("sgd", loss, metrics=[*per_prefix(loss, DIMS), *accuracy])
    targets = as_numpy(stack_targets(TARGETS, DIMS)).astype("int32")
    revived = save_and_load(made)
    for one in (made, revived):
        found = one.evaluate(x, targets, verbose=0, return_dict=True)
        logits = one.predict(x, verbose=0)
        full = logits[:, 2]
        narrow = divergence(logits[:, 0], full, 1.0).mean()
        one_hot = oracles.one_hot(COARSE, 4)
        middle = oracles.softmax_crossentropy(one_hot, logits[:, 1]).mean()
        middle += 2.0 * divergence(logits[:, 1], full, 1.0).mean()
        wide = oracles.softmax_crossentropy(oracles.one_hot(FINE, 4), full).mean()
        logged = [found[f"loss_d{dim}"] for dim in DIMS]
        np.testing.assert_allclose(logged, [narrow, middle, wide], rtol=1e-4)
        np.testing.assert_allclose(found["loss"], narrow + middle + wide, rtol=1e-4)
        right = (logits[:, 0].argmax(-1) == COARSE).mean()
        np.testing.assert_allclose(found["sparse_categorical_accuracy_d2"], right, rtol=1e-6)
    history = made.fit(x, targets, verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_contract_of_self_distillation():
    arguments = {
        "loss": sparse(),
        "weight": 0.5,
        "temperature": 2.0,
        "reduction": "sum",
        "name": "taught",
        "dtype": "float16",
    }
    check_every_argument_is_given(SelfDistillation, arguments)
    check_config_round_trip(SelfDistillation, arguments)
    check_config_round_trip(SelfDistillation, {**arguments, "loss": None})


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_values_of_self_distillation(temperature):
    loss = MatryoshkaLoss(SelfDistillation(sparse(), 0.3, temperature), reduction=None)
    wanted = 0.0
    for i in range(3):
        wanted += crossentropy(FINE, i) + 0.3 * divergence(LOGITS[:, i], LOGITS[:, 2], temperature)
    np.testing.assert_allclose(as_numpy(loss(FINE, LOGITS)), wanted, rtol=1e-5, atol=1e-6)


def test_the_teacher_gets_no_gradient():
    one, other = LOGITS[:, 0], LOGITS[:, 2]
    _, (student, teacher) = gradients(
        lambda z, t: keras.ops.sum(distillation(z, t, 2.0)), one, other
    )
    np.testing.assert_array_equal(teacher, 0.0)
    wanted = numerical_gradient(lambda z, t: divergence(z, t, 2.0).sum(), [one, other], 0)
    np.testing.assert_allclose(student, wanted, atol=1e-5)
    # In the nested loss: the widest prefix's gradient is that of its own loss alone.
    taught = MatryoshkaLoss(SelfDistillation(None))
    _, (found,) = gradients(lambda z: taught(None, z), LOGITS)
    np.testing.assert_allclose(found[:, 2], 0.0, atol=1e-7)
    assert np.abs(found[:, :2]).max(axis=(0, 2)).min() > 1e-3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PrefixLosses(DIMS), r"needs a loss\. Received none for \[2, 4, 8\]"),
        (lambda: PrefixLosses(DIMS, {2: "mse"}), r"Received none for \[4, 8\]"),
        (lambda: PrefixLosses(DIMS, {3: "mse"}), r"trained prefixes \[2, 4, 8\]\. Received 3"),
        (lambda: PrefixLosses(DIMS, ["mse"]), r"`losses` must be a dict from dims"),
        (lambda: PrefixLosses(DIMS, {2: 5}, "mse"), r"`loss` must be .* Received 5 of type int"),
        (
            lambda: PrefixLosses(DIMS, default=keras.losses.MeanSquaredError(reduction="sum")),
            r"keep its default `reduction`",
        ),
        (lambda: SelfDistillation("mse", weight=-1.0), r"`weight` must be .* at least 0"),
        (lambda: SelfDistillation("mse", temperature=0.0), r"`temperature` must be .* above 0"),
        (lambda: SelfDistillation(None)(None, LOGITS[:, 0]), r"MatryoshkaLoss\(SelfDistillation"),
        (
            lambda: MatryoshkaLoss(SelfDistillation(None))(None, LOGITS[:, :, :1]),
            r"a single unit: \(6, 1\)",
        ),
        (lambda: MatryoshkaLoss(sparse())(TARGETS, LOGITS), r"PrefixLosses\(\.\.\., own_targets"),
        (
            lambda: MatryoshkaLoss(PrefixLosses([2, 8], default=sparse()))(FINE, LOGITS),
            r"`loss` has 2 losses, but .* has 3 prefixes",
        ),
        (lambda: stack_targets({2: FINE, 8: FINE}, DIMS), r"it lacks \[4\], and \[\] are no"),
        (lambda: stack_targets({**TARGETS, 3: FINE}, DIMS), r"and \[3\] are no prefixes"),
        (lambda: stack_targets({**TARGETS, 2: FINE[:3]}, DIMS), r"must have one shape.*2: \(3,\)"),
        (lambda: stack_targets(FINE, DIMS), r"`targets` must be a dict"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("shape", [(6,), (6, 2)])
def test_targets_of_another_number_of_prefixes(shape):
    loss = MatryoshkaLoss(PrefixLosses(DIMS, default=sparse(), own_targets=True))
    with pytest.raises(ValueError, match=r"has the 3 prefixes on axis 1\. Received y_true \(6"):
        loss(np.zeros(shape, int), LOGITS)
    (metric, *_) = per_prefix("sparse_categorical_accuracy", DIMS, own_targets=True)
    with pytest.raises(ValueError, match=r"has the 3 prefixes on axis 1"):
        metric.update_state(np.zeros(shape, int), LOGITS)
