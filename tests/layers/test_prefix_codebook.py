"""The codebook against NumPy: its loss, its running means, dead leaves, and what it hands over."""

import warnings

import keras
import numpy as np
import pytest

from mrl_keras import MatryoshkaDense, MatryoshkaLoss, PrefixCodebook
from mrl_keras.layers import prefix_codebook
from mrl_keras.retrieval import IndexOptions, NestedIndex, PartitionParameters, SearchPlan
from tests.support import contracts
from tests.support.backend import gradients, numerical_gradient
from tests.support.contracts import as_numpy

LEAVES, DIM = 4, 2
RNG = np.random.default_rng(0)
X = RNG.standard_normal((6, 5)).astype("float32")
DOCUMENTS = RNG.standard_normal((6, 5)).astype("float32")
CLASSES = RNG.integers(0, 3, 96)
INPUTS = (np.eye(5)[CLASSES] + 0.3 * RNG.standard_normal((96, 5))).astype("float32")


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def softmax(x):
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def moved(centres, sums, usage, rows, decay):
    """The state after a batch, leaf by leaf and row by row."""
    own = [int(np.argmax([row @ centre for centre in centres])) for row in rows]
    sums, usage = decay * sums, decay * usage
    for row, leaf in zip(rows, own, strict=True):
        sums[leaf] += (1 - decay) * row / len(rows)
        usage[leaf] += (1 - decay) / len(rows)
    edge = 0.1 / len(usage)
    crowded = sorted(range(len(rows)), key=lambda i: -usage[own[i]])
    dead = [leaf for leaf in range(len(usage)) if usage[leaf] < edge]
    for turn, leaf in enumerate(dead):
        sums[leaf] = edge * rows[crowded[turn % len(rows)]]
        usage[leaf] = edge
    return unit(sums), sums, usage


def losses(queries, documents, centres, usage, temperature):
    """(same leaf, balance) of a batch; without documents the nearest other row is positive."""
    shares = softmax(unit(queries[:, :DIM]) @ centres.T / temperature)
    if documents is None:
        cosines = unit(queries) @ unit(queries).T
        np.fill_diagonal(cosines, -np.inf)
        held, positives = shares, shares[cosines.argmax(axis=1)]
    else:
        held = positives = softmax(unit(documents[:, :DIM]) @ centres.T / temperature)
    together = -np.log((shares * positives).sum(axis=1)).mean()
    return together, len(centres) * (held.mean(axis=0) * usage).sum() - 1.0


def state_of(layer):
    return [as_numpy(layer._state[name]) for name in ("centres", "sums", "usage")]


def trained(layer, batches, documents=None):
    """The layer after some calls in training."""
    for batch in batches:
        layer(batch if documents is None else [batch, documents], training=True)
    return layer


def classifier(jit_compile=False, optimizer="adam", **options):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,))
    codebook = PrefixCodebook(LEAVES, DIM, name="leaves", **options)
    embedding = codebook(keras.layers.Dense(6)(inputs))
    model = keras.Model(inputs, MatryoshkaDense(3, [DIM, 6])(embedding))
    loss = MatryoshkaLoss(keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.compile(optimizer, loss, jit_compile=jit_compile)
    return model, codebook


def test_contract():
    arguments = {"num_leaves": 4, "dim": 2, "temperature": 0.3, "same_leaf": 2.0}
    arguments |= {"balance": 0.5, "decay": 0.9, "name": "leaves"}
    contracts.run_layer_contract(PrefixCodebook, arguments, X)


@pytest.mark.parametrize("documents", [None, DOCUMENTS])
def test_loss_and_running_means_are_those_of_the_formulas(documents):
    options = {"temperature": 0.3, "same_leaf": 0.7, "balance": 0.4}
    layer = PrefixCodebook(LEAVES, DIM, decay=0.8, **options)
    state = np.zeros((LEAVES, DIM)), np.zeros((LEAVES, DIM)), np.zeros(LEAVES)
    for step in range(5):
        queries = np.roll(X, step, axis=1) + 0.1 * step
        trained(layer, [queries], documents)
        rows = unit((queries if documents is None else documents)[:, :DIM].astype("float64"))
        state = moved(*state, rows, 0.8)
        for found, wanted in zip(state_of(layer), state, strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-5)
        together, uneven = losses(queries, documents, state[0], state[2], 0.3)
        (loss,) = layer.losses
        np.testing.assert_allclose(as_numpy(loss), 0.7 * together + 0.4 * uneven, rtol=1e-4)


@pytest.mark.parametrize("documents", [None, DOCUMENTS])
def test_gradients_of_the_loss_leave_the_leaves_alone(documents):
    layer = trained(PrefixCodebook(LEAVES, DIM, decay=0.5), [X] * 3, documents)
    before = state_of(layer)

    def loss(*inputs):
        for variable, value in zip(layer._state.values(), before, strict=True):
            variable.assign(value)
        layer(list(inputs) if len(inputs) > 1 else inputs[0], training=True)
        return layer.losses[0]

    inputs = [X] if documents is None else [X, documents]
    loss(*inputs)
    centres, _, usage = state_of(layer)
    _, found = gradients(loss, *inputs)

    def oracle(queries, documents=None):
        together, uneven = losses(queries, documents, centres, usage, layer.temperature)
        return together + uneven

    for place, one in enumerate(found):
        wanted = numerical_gradient(oracle, inputs, place)
        np.testing.assert_allclose(one, wanted, atol=2e-3)


def test_dead_leaves_move_to_the_rows_of_crowded_ones():
    angles = np.array([0.0, 0.1, 0.2, 3.0])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype("float32")
    layer = trained(PrefixCodebook(3, DIM, decay=0.5), [rows] * 40)
    usage = state_of(layer)[2]
    np.testing.assert_allclose(usage.sum(), 1.0, atol=0.1)
    assert (usage > 0.2).all()  # four rows, three leaves: none is left without
    assert not as_numpy(prefix_codebook.dead_leaves(usage)).any()


def test_leaves_end_as_k_means_would_put_them():
    """Clusters that are far apart get a leaf each, at their mean directions."""
    angles = np.repeat(np.arange(LEAVES) * np.pi / 2, 16) + 0.1 * RNG.standard_normal(64)
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype("float32")
    batches = [RNG.permutation(rows)[:32] for _ in range(60)]
    layer = trained(PrefixCodebook(LEAVES, DIM, decay=0.9), batches)
    wanted = unit(rows.reshape(LEAVES, 16, DIM).mean(axis=1))
    nearest = (wanted @ layer.leaf_centres().T).max(axis=1)
    np.testing.assert_allclose(nearest, 1.0, atol=2e-2)


@pytest.mark.parametrize(("usage", "leaves"), [([1, 1, 1, 1], 4), ([2, 2, 0, 0], 2), ([0] * 4, 1)])
def test_perplexity_is_the_number_of_leaves_in_use(usage, leaves):
    found = prefix_codebook.perplexity(np.array(usage, "float32"))
    np.testing.assert_allclose(as_numpy(found), leaves, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", contracts.JIT_COMPILE)
def test_fit_logs_the_leaves_and_evaluate_leaves_them(jit_compile):
    model, codebook = classifier(jit_compile)
    history = model.fit(INPUTS, CLASSES, batch_size=16, epochs=12, verbose=0).history
    before = state_of(codebook)
    assert np.isin(["leaves_perplexity", "leaves_dead"], list(history)).all()
    np.testing.assert_allclose(
        history["leaves_perplexity"][-1], as_numpy(prefix_codebook.perplexity(before[2])), rtol=1e-4
    )
    assert history["leaves_perplexity"][-1] > 2.0
    found = model.evaluate(INPUTS, CLASSES, verbose=0, return_dict=True)
    for one, other in zip(state_of(codebook), before, strict=True):
        np.testing.assert_array_equal(one, other)
    own = model.loss(CLASSES, model.predict(INPUTS, verbose=0))  # without the leaves' part
    np.testing.assert_allclose(found["loss"], as_numpy(own), rtol=1e-4)
    revived = contracts.save_and_load(model).get_layer("leaves")
    np.testing.assert_array_equal(revived.leaf_centres(), codebook.leaf_centres())


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="checkpoints of TensorFlow")
@pytest.mark.slow
def test_checkpoints_hold_the_leaves(tmp_path):
    from mrl_keras.distribution import Checkpoints

    (model, codebook), (other, again) = classifier(), classifier()
    model.fit(INPUTS, CLASSES, batch_size=16, epochs=2, verbose=0)
    Checkpoints(str(tmp_path), {}).save(model, 1)
    assert Checkpoints(str(tmp_path), {}).restore(other) == 1
    for one, wanted in zip(state_of(again), state_of(codebook), strict=True):
        np.testing.assert_array_equal(one, wanted)


@pytest.mark.slow
def test_a_large_weight_puts_positives_into_one_leaf():
    """Without it the prefix has no reason to keep the neighbours of the full width together."""
    found = {}
    for weight in (0.0, 20.0):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((5,))
        codebook = PrefixCodebook(LEAVES, DIM, same_leaf=weight, balance=weight / 2)
        model = keras.Model(inputs, codebook(keras.layers.Dense(6)(inputs)))
        model.compile(keras.optimizers.Adam(0.01), lambda _, outputs: 0.0 * keras.ops.sum(outputs))
        model.fit(INPUTS, CLASSES, batch_size=48, epochs=25, verbose=0)
        rows = model.predict(INPUTS, verbose=0)
        leaf = (unit(rows[:, :DIM]) @ codebook.leaf_centres().T).argmax(axis=1)
        cosines = unit(rows) @ unit(rows).T - 9 * np.eye(len(rows))
        found[weight] = (leaf == leaf[cosines.argmax(axis=1)]).mean()
    assert found[20.0] > found[0.0]


def test_both_calls_of_a_step_count():
    inputs, layer = keras.Input(X.shape[1:]), PrefixCodebook(LEAVES, DIM)
    model = keras.Model(inputs, [layer(inputs), layer(2.0 * inputs)])
    model(X, training=True)
    assert len(model.losses) == 2


def test_a_layer_that_is_not_trained_learns_no_leaves():
    for layer in (PrefixCodebook(LEAVES, DIM), PrefixCodebook(LEAVES, DIM, trainable=False)):
        np.testing.assert_array_equal(as_numpy(layer(X, training=not layer.trainable)), X)
        assert not layer.losses
        with pytest.raises(ValueError, match=r"has no leaves yet: train its model with `fit`"):
            layer.leaf_centres()


def test_half_precision_keeps_its_statistics_in_float32():
    exact, half = PrefixCodebook(LEAVES, DIM), PrefixCodebook(LEAVES, DIM, dtype="bfloat16")
    inputs = as_numpy(keras.ops.cast(X, "bfloat16"))
    trained(exact, [inputs] * 3)
    trained(half, [keras.ops.cast(X, "bfloat16")] * 3)
    for one, other in zip(state_of(half), state_of(exact), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_rows_that_are_not_finite_do_not_move_the_leaves():
    layer = trained(PrefixCodebook(LEAVES, DIM, decay=0.5), [X] * 3)
    bad = X.copy()
    bad[0, 0], bad[3, 1] = np.inf, np.nan
    trained(layer, [bad])
    assert all(np.isfinite(one).all() for one in state_of(layer))
    np.testing.assert_allclose(np.linalg.norm(layer.leaf_centres(), axis=1), 1.0, rtol=1e-5)


def set_usage(layer, usage):
    layer._state["usage"].assign(np.array(usage, "float32"))
    return layer


def handed_over(layer, usage):
    """(centres, texts of the warnings) of a codebook with these shares of the rows."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        centres = set_usage(layer, usage).leaf_centres()
    return centres, [str(one.message) for one in caught if one.category is UserWarning]


def test_dead_leaves_are_named_and_a_collapse_is_refused():
    layer = trained(PrefixCodebook(LEAVES, DIM, name="own"), [X])
    (said,) = handed_over(layer, [0.5, 0.01, 0.47, 0.02])[1]
    assert said.startswith("Dead leaves of the codebook 'own': [1, 3].")
    centres, said = handed_over(layer, [0.3, 0.3, 0.2, 0.2])
    assert not said
    assert centres.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1.0, rtol=1e-5)
    with pytest.raises(ValueError, match=r"collapsed: its 4 leaves .* as 1\.1 equal .* `balance`"):
        set_usage(layer, [0.99, 0.01, 0.0, 0.0]).leaf_centres()
    layer._state["centres"].assign(np.full((LEAVES, DIM), np.nan))
    with pytest.raises(ValueError, match=r"'own' has centres that are not finite"):
        set_usage(layer, [0.3, 0.3, 0.2, 0.2]).leaf_centres()


def test_an_index_takes_a_codebook_for_its_leaves():
    layer = trained(PrefixCodebook(LEAVES, DIM), [X] * 3)
    centres = set_usage(layer, [0.3, 0.3, 0.2, 0.2]).leaf_centres()
    parameters = PartitionParameters(DIM, LEAVES, 2, centres=centres)
    plan = SearchPlan.adaptive(DIM, 5, X.shape[1], k=3)
    found, wanted = (
        NestedIndex.build(
            X, [DIM, X.shape[1]], options=IndexOptions(shortlist_dim=DIM, partition=partition)
        ).search(X[:4], plan)
        for partition in (layer, parameters)
    )
    np.testing.assert_array_equal(found.indices, wanted.indices)
    with pytest.raises(ValueError, match="has no leaves yet"):
        IndexOptions(shortlist_dim=DIM, partition=PrefixCodebook(LEAVES, DIM))
    with pytest.raises(ValueError, match="a trained PrefixCodebook. Received 'leaves'"):
        IndexOptions(shortlist_dim=DIM, partition="leaves")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_leaves": 1}, r"`num_leaves` must be at least 2\. Received 1"),
        ({"dim": 2.5}, r"`dim` must be an int\. Received 2\.5"),
        ({"temperature": 0.0}, r"`temperature` must be a finite number above 0"),
        ({"same_leaf": -1}, r"`same_leaf` must be a finite number, at least 0\. Received -1"),
        ({"balance": np.nan}, r"`balance` must be a finite number"),
        ({"decay": 1.0}, r"`decay` must be a finite number, at least 0 and at most 1\."),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        PrefixCodebook(**{"num_leaves": LEAVES, "dim": DIM, **arguments})


@pytest.mark.parametrize("shape", [(4, 1), (4, 3, 8), [(4, 8), (4, 1)]])
def test_wrong_shapes(shape):
    with pytest.raises(ValueError, match=r"needs embeddings \(rows, d\) with d at least `dim` = 2"):
        PrefixCodebook(LEAVES, DIM).compute_output_shape(shape)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.distribute")
@pytest.mark.slow
def test_two_replicas_learn_as_one(tmp_path):
    from tests.support.replica_runs import run_replicas

    for name, (one, two) in run_replicas("codebook_replicas", tmp_path / "runs.npz").items():
        np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-6, err_msg=name)
