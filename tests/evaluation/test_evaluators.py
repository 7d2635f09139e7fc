"""Evaluators over one pass: each example once, values equal to the array functions', grammar."""

import dataclasses
import fnmatch

import numpy as np
import pytest

from mrl_keras import NestingDims
from mrl_keras.evaluation import (
    CascadeEvaluator,
    CosineSpanEvaluator,
    DisagreementEvaluator,
    EvaluationPass,
    Evaluator,
    FewShotEvaluator,
    ImageTextRecallEvaluator,
    JudgedRetrievalEvaluator,
    LinearHeadEvaluator,
    LinearProbeEvaluator,
    LongTailEvaluator,
    MaskedTokensEvaluator,
    NearestNeighboursEvaluator,
    Outputs,
    PairSimilarityEvaluator,
    RetrievalEvaluator,
    ShotDraws,
    SuperclassEvaluator,
    ZeroShotEvaluator,
    collect,
    evaluate,
    exact_retrieval_table,
    few_shot_accuracy,
    head_accuracy,
    knn_accuracy,
    linear_probe_accuracy,
    ndcg,
    needed_names,
    pair_recall,
    spearman,
    superclass_accuracy,
    zero_shot_accuracy,
)

RNG = np.random.default_rng(0)
CENTRES = 2 * RNG.standard_normal((3, 8))
TRAIN_LABELS, LABELS = np.arange(60) % 3, np.arange(31) % 3
TRAIN = CENTRES[TRAIN_LABELS] + RNG.standard_normal((60, 8))
TEST = CENTRES[LABELS] + RNG.standard_normal((31, 8))
LOGITS = RNG.standard_normal((31, 2, 3)) + 2 * np.eye(3)[LABELS][:, None]
DIMS, BETWEEN = [2, 8], [5]
ALL_DIMS = [2, 5, 8]
KERNEL = RNG.standard_normal((8, 3))


class Embed:
    """Twice its input; counts its calls and the rows that it has seen."""

    def __init__(self):
        self.calls, self.rows = 0, 0

    def __call__(self, rows):
        self.calls, self.rows = self.calls + 1, self.rows + len(rows)
        return 2 * rows


def batches(rows, labels, size=8):
    return [(rows[i : i + size], labels[i : i + size]) for i in range(0, len(rows), size)]


def head(rows):
    return np.stack([head_at(rows, dim) for dim in DIMS], axis=1)


def head_at(rows, dim):
    return rows[:, :dim] @ KERNEL[:dim]


TRAIN_BATCHES, TEST_BATCHES = batches(TRAIN, TRAIN_LABELS), batches(TEST, LABELS)
EMBEDDING = (
    NearestNeighboursEvaluator(ks=(1, 5), tops=(1, 2)),
    LinearProbeEvaluator(),
    FewShotEvaluator(shots=(2,), repeats=3, seed=5),
    RetrievalEvaluator(ks=(5,)),
    CosineSpanEvaluator(),
    LongTailEvaluator(most=10, least=3, head_above=5),
)


def embedding_pass(embed=None, test=TEST_BATCHES, **change):
    given = {"train": TRAIN_BATCHES, "interpolated": BETWEEN, **change}
    return EvaluationPass.of_embeddings(embed or Embed(), test, DIMS, **given)


def logits_pass(logits=LOGITS):
    return EvaluationPass.of_logits(np.asarray, batches(logits, LABELS), DIMS)


def test_embeddings_in_one_pass():
    embed = Embed()
    pairs = list(evaluate(embedding_pass(embed), EMBEDDING))
    assert (embed.calls, embed.rows) == (8 + 4, 60 + 31)  # the last batches hold 4 and 7 rows
    values = dict(pairs)
    assert len(values) == len(pairs)
    data = (TRAIN, TRAIN_LABELS, TEST, LABELS)
    few = few_shot_accuracy(*data, DIMS, 2, ShotDraws(repeats=3, seed=5))
    table = exact_retrieval_table(TEST, LABELS, TRAIN, TRAIN_LABELS, ALL_DIMS, ks=(5,))
    probe = linear_probe_accuracy(*data, ALL_DIMS)
    expected = {}
    for dim in ALL_DIMS:
        expected[f"top1/1nn/{dim}"] = knn_accuracy(*data, ALL_DIMS)[dim]
        for top in (1, 2):
            expected[f"top{top}/5nn/{dim}"] = knn_accuracy(*data, ALL_DIMS, k=5, top=top)[dim]
        expected[f"top1/probe/{dim}"] = probe[dim]
        expected[f"retrieval/mAP@5/{dim}"] = table[dim]["mAP@5"]
        expected[f"retrieval/MFLOPs/{dim}"] = table[dim]["MFLOPs"]
    for dim in DIMS:
        expected[f"2shot/mean/{dim}"] = few[dim].mean
        expected[f"2shot/half_width/{dim}"] = few[dim].half_width
    assert {name: values[name] for name in expected} == pytest.approx(expected)
    others = values.keys() - expected.keys()
    assert {name.split("/")[0] for name in others} == {"retrieval", "cosine", "long_tail"}
    assert values["cosine/span/8"] > 0.1
    assert 0.0 <= values["long_tail/novel_tail/8"] < 1.0  # the first of a class is always wrong


def test_a_head_is_measured_at_interpolated_dims_too():
    source = embedding_pass(head=head, head_at=head_at)
    assert source.names == (
        "embeddings", "labels", "train_embeddings", "train_labels", "logits", "interpolated_logits",
    )  # fmt: skip
    found = dict(evaluate(source, [LinearHeadEvaluator(tops=(1, 2))]))
    assert list(found) == [f"top{top}/linear/{dim}" for top in (1, 2) for dim in ALL_DIMS]
    for dim in ALL_DIMS:
        right = (head_at(TEST, dim).argmax(axis=1) == LABELS).mean()
        assert found[f"top1/linear/{dim}"] == pytest.approx(right)
    plain = dict(evaluate(embedding_pass(head=head), [LinearHeadEvaluator()]))
    assert list(plain) == ["top1/linear/2", "top1/linear/8"]


def test_what_no_evaluator_needs_is_not_computed():
    embed = Embed()
    source = embedding_pass(embed, head=head)
    evaluators = [LinearHeadEvaluator()]
    assert needed_names(source, evaluators) == ("logits", "labels")
    list(evaluate(source, evaluators))
    assert embed.rows == 31  # not the training split


def test_outputs_may_be_kept_and_evaluated_again():
    embed = Embed()
    source = embedding_pass(embed)
    outputs = source.collect(needed_names(source, EMBEDDING))
    kept = Outputs(source.dims, dict(outputs.arrays), source.interpolated)
    assert dict(evaluate(kept, EMBEDDING)) == dict(evaluate(embedding_pass(), EMBEDDING))
    assert embed.calls == 12


def test_values_of_each_query_and_of_each_split():
    retrieval, cascade = RetrievalEvaluator(ks=(5,)), CascadeEvaluator(splits=3)
    source = embedding_pass(head=head).collect()
    each, values = dict(retrieval.each(source)), dict(retrieval(source))
    assert set(values) - set(each) == {f"retrieval/MFLOPs/{dim}" for dim in ALL_DIMS}
    for name, queries in each.items():
        assert queries.shape == LABELS.shape
        assert values[name] == pytest.approx(queries.mean())
    splits = dict(cascade.each(source))["cascade-joint/accuracy/8"]
    assert splits.shape == (3,)
    assert dict(cascade(source))["cascade-joint/accuracy_std/8"] == splits.std(ddof=1)


def judged(judgements, queries=TEST, **options):
    arrays = {"queries": queries, "documents": TRAIN, "judgements": np.array(judgements)}
    given = {"ndcg": (5,), "recall": (4, 60), "mean_ap": (5,), **options}
    return JudgedRetrievalEvaluator(**given), Outputs(DIMS, arrays, BETWEEN)


def test_judged_documents_against_a_plain_count():
    rng = np.random.default_rng(2)
    triples = [(q, d, rng.integers(0, 3)) for q in range(30) for d in rng.permutation(60)[:4]]
    evaluator, outputs = judged(triples)
    gains = [{d: g for q, d, g in triples if q == query} for query in range(31)]
    each, values = dict(evaluator.each(outputs)), dict(evaluate(outputs, [evaluator]))
    relevant = [{d for d, g in gain.items() if g} for gain in gains]
    some = [q for q, found in enumerate(relevant) if found]
    assert len(some) < 31  # the last query has no judgement at all
    for dim in ALL_DIMS:
        cosines = TEST[:, :dim] @ TRAIN[:, :dim].T / np.linalg.norm(TRAIN[:, :dim], axis=1)
        order = np.argsort(-cosines, axis=1)
        hits = {q: [d in relevant[q] for d in order[q]] for q in some}
        for k in (4, 60):
            shares = [sum(hits[q][:k]) / len(relevant[q]) for q in some]
            np.testing.assert_allclose(each[f"retrieval/recall@{k}/{dim}"], shares)
        precise = [
            sum(sum(hits[q][: i + 1]) / (i + 1) for i in range(5) if hits[q][i]) / 5 for q in some
        ]
        np.testing.assert_allclose(each[f"retrieval/mAP@5/{dim}"], precise)
        assert values[f"retrieval/recall@60/{dim}"] == 1
    expected = ndcg(TEST, TRAIN, gains, ALL_DIMS, k=5)
    assert {dim: values[f"retrieval/nDCG@5/{dim}"] for dim in ALL_DIMS} == pytest.approx(expected)
    assert evaluator.primary_metric == "retrieval/nDCG@5/*"


@pytest.mark.parametrize(
    ("judgements", "message"),
    [
        ([[0, 1]], r"must be numbers \(judgements, 3\).* Received int64 \(1, 2\)"),
        ([["0", "1", "2"]], "must be numbers"),
        ([[31, 0, 1]], "must name queries 0 to 30. Received 31"),
        ([[0, 60, 1]], "must name rows 0 to 59 of `documents`. Query 0 names 60"),
        ([[0, 1, -1]], "Query 0 has -1.0 for document 1"),
        ([[0, 1, 0]], "a relevant document for at least one query"),
    ],
)
def test_judgements_that_do_not_fit(judgements, message):
    evaluator, outputs = judged(judgements)
    with pytest.raises(ValueError, match=message):
        list(evaluator.each(outputs))


def test_logits_in_one_pass():
    groups = ("pet", "pet", None)
    evaluators = (
        LinearHeadEvaluator((1, 2)),
        DisagreementEvaluator(),
        SuperclassEvaluator(groups),
        CascadeEvaluator(splits=3),
    )
    values = dict(evaluate(logits_pass(), evaluators))
    for top in (1, 2):
        for dim, value in head_accuracy(LOGITS, LABELS, DIMS, top).items():
            assert values[f"top{top}/linear/{dim}"] == value
    guesses = LOGITS.argmax(axis=-1)
    for name, expected in superclass_accuracy(guesses, LABELS, groups).items():
        assert [values[f"superclass/{name}/{dim}"] for dim in DIMS] == expected.tolist()
    shares = [value for name, value in values.items() if name.startswith("first_right/")]
    assert len(shares) == 3
    assert sum(shares) == pytest.approx(1.0)
    assert values["oracle/accuracy/8"] == pytest.approx(1.0 - values["first_right/never/all"])
    trends = [value for name, value in values.items() if name.startswith("classes/")]
    assert sum(trends) == pytest.approx(1.0)
    for policy in ("greedy", "joint"):
        assert values[f"cascade-{policy}/expected_dim/2"] == 2.0
        assert 2.0 <= values[f"cascade-{policy}/expected_dim/8"] <= 8.0
        assert values[f"cascade-{policy}/accuracy_std/8"] >= 0.0


def test_values_of_each_example():
    outputs = embedding_pass(head=head).collect()
    for evaluator in (LinearHeadEvaluator(), NearestNeighboursEvaluator(ks=(3,))):
        each = dict(evaluator.each(outputs))
        assert all(values.shape == (31,) for values in each.values())
        means = {name: values.mean() for name, values in each.items()}
        assert dict(evaluate(outputs, [evaluator])) == pytest.approx(means)


def test_neighbours_of_an_embedding_for_each_prefix():
    """As of a slimmable network: what lies beyond a prefix's own dims is not read."""
    arrays = {"labels": LABELS, "train_labels": TRAIN_LABELS}
    expected = {}
    for name, rows in (("embeddings", TEST), ("train_embeddings", TRAIN)):
        arrays[name] = np.stack([rows[:, ::-1], rows], axis=1)
    for dim, (train, test) in {2: (TRAIN[:, ::-1], TEST[:, ::-1]), 8: (TRAIN, TEST)}.items():
        expected[f"top1/1nn/{dim}"] = knn_accuracy(train, TRAIN_LABELS, test, LABELS, [dim])[dim]
    assert dict(evaluate(Outputs(DIMS, arrays), [NearestNeighboursEvaluator()])) == expected


def test_pairs_and_prompts():
    first, second = RNG.standard_normal((2, 12, 8))
    scores, owners = RNG.random(12), np.repeat(np.arange(6), 2)
    prompts = RNG.standard_normal((3, 2, 8))
    arrays = {
        "first": first, "second": second, "scores": scores,
        "images": first[:6], "texts": second, "text_images": owners,
        "zero_shot_images": TEST, "zero_shot_labels": LABELS, "prompt_embeddings": prompts,
    }  # fmt: skip
    outputs = Outputs(DIMS, arrays, BETWEEN)
    evaluators = [PairSimilarityEvaluator(), ImageTextRecallEvaluator(), ZeroShotEvaluator()]
    found = dict(evaluate(outputs, evaluators))
    own = np.arange(6)
    to_image = pair_recall(second, owners, first[:6], own, ALL_DIMS, [1])
    to_text = pair_recall(first[:6], own, second, owners, ALL_DIMS, [1])
    zero_shot = zero_shot_accuracy(prompts, TEST, LABELS, ALL_DIMS)
    expected = {}
    for dim, value in spearman(first, second, scores, ALL_DIMS).items():
        expected[f"spearman/cosine/{dim}"] = value
        expected[f"recall@1/text_to_image/{dim}"] = to_image[dim][1]
        expected[f"recall@1/image_to_text/{dim}"] = to_text[dim][1]
        expected[f"top1/zero_shot/{dim}"] = zero_shot[dim]
    assert found == pytest.approx(expected)  # 10 nearest of 6 images are left out


def test_masked_tokens_by_hand():
    scores = np.array([[[2.0, 0.0], [1.0, 1.0]], [[4.0, 1.0], [3.0, 1.0]]])
    arrays = {"token_scores": scores, "token_labels": np.array([2, 3])}
    found = dict(evaluate(Outputs(DIMS, arrays), [MaskedTokensEvaluator()]))
    assert found == {
        "top1/mlm/2": 0.5, "crossentropy/mlm/2": 3.0, "top1/mlm/8": 1.0, "crossentropy/mlm/8": 2.0,
    }  # fmt: skip
    arrays["piece_counts"] = np.array([-1, -1, 4, 0, 1])  # shares 5/8, 1/8, 2/8
    found = dict(evaluate(Outputs(DIMS, arrays), [MaskedTokensEvaluator()]))
    assert found["top1/majority/all"] == 0.5
    assert found["crossentropy/unigram/all"] == pytest.approx(-np.log(5 / 8 * 1 / 8) / 2)


def test_the_seed_decides_what_is_drawn():
    def run(seed):
        return list(evaluate(embedding_pass(), [FewShotEvaluator((1,), seed=seed)]))

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_order_of_test_examples_does_not_matter():
    order = RNG.permutation(31)
    evaluators = EMBEDDING[:4]
    plain = dict(evaluate(embedding_pass(), evaluators))
    moved = embedding_pass(test=batches(TEST[order], LABELS[order], size=5))
    assert dict(evaluate(moved, evaluators)) == pytest.approx(plain)


@pytest.mark.parametrize(
    "evaluator",
    [*EMBEDDING, LinearHeadEvaluator(), DisagreementEvaluator(), CascadeEvaluator(splits=2)],
    ids=lambda one: type(one).__name__,
)
def test_the_primary_metric_is_one_of_the_results(evaluator):
    names = [name for name, _ in evaluate(embedding_pass(head=head), [evaluator])]
    assert fnmatch.filter(names, evaluator.primary_metric)
    for name in names:
        *_, dim = name.split("/")
        assert dim == "all" or int(dim) in ALL_DIMS


def test_collect_takes_any_iterable_of_batches():
    outputs, labels = collect(Embed(), iter(TEST_BATCHES))
    np.testing.assert_array_equal(outputs, 2 * TEST)
    np.testing.assert_array_equal(labels, LABELS)
    outputs, _ = collect(lambda rows: {"half": rows / 2, "first": rows[:, 0]}, TEST_BATCHES)
    np.testing.assert_array_equal(outputs["half"], TEST / 2)
    assert outputs["first"].shape == (31,)
    with pytest.raises(ValueError, match="no example to evaluate"):
        collect(Embed(), [])
    with pytest.raises(ValueError, match="no example to evaluate"):
        collect(Embed(), [(TEST[:0], LABELS[:0])])
    with pytest.raises(ValueError, match=r"outputs \(1,\) and labels \(8,\)"):
        collect(lambda rows: rows.sum(keepdims=True)[0], TEST_BATCHES)


@dataclasses.dataclass(frozen=True)
class MeanEvaluator(Evaluator):
    """An evaluator of one's own."""

    names: tuple = ("mean/embedding/all",)

    needs = ("embeddings",)
    primary_metric = "mean/embedding/all"

    def __call__(self, outputs):
        for name in self.names:
            yield name, outputs["embeddings"].mean()


def test_an_evaluator_of_ones_own():
    found = list(evaluate(embedding_pass(), [MeanEvaluator()]))
    assert found == [("mean/embedding/all", pytest.approx(2 * TEST.mean()))]
    for names in (("mean",), ("a/b/8", "a/b/8")):
        with pytest.raises(ValueError, match="GROUP/NAME/DIM. MeanEvaluator yielded"):
            list(evaluate(embedding_pass(), [MeanEvaluator(names)]))


@pytest.mark.parametrize(
    ("evaluators", "message"),
    [
        ([], "at least one evaluator"),
        (
            [NearestNeighboursEvaluator()],
            "needs train_embeddings, train_labels, which .* gives emb",
        ),
        (
            [LinearHeadEvaluator()],
            "LinearHeadEvaluator needs logits, which the evaluation does not",
        ),
        ([len], "must be an `Evaluator`"),
        ([MeanEvaluator], "not the class"),
    ],
)
def test_refused_before_any_work(evaluators, message):
    embed = Embed()
    with pytest.raises(ValueError, match=message):
        evaluate(embedding_pass(embed, train=None), evaluators)
    assert embed.calls == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NearestNeighboursEvaluator(ks=()), "`ks` must be at least one int in a tuple"),
        (lambda: NearestNeighboursEvaluator(ks=5), "`ks` must be at least one int in a tuple"),
        (lambda: NearestNeighboursEvaluator(tops=(5,)), "must not exceed the most neighbours, 1"),
        (lambda: LinearHeadEvaluator(tops=(0,)), "Each of `tops` must be at least 1. Received 0"),
        (lambda: EvaluationPass([2], {("a",): len, ("b", "a"): len}), "In several: a"),
        (lambda: embedding_pass().collect(["logits"]), "does not give logits. It gives embedd"),
        (lambda: Outputs([2], {"a": 1})["b"], "There is no array 'b'. There are a"),
        (lambda: list(evaluate(logits_pass(LOGITS * np.nan), [LinearHeadEvaluator()])), "not NaN"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_dims_that_the_arrays_do_not_have():
    outputs = Outputs([1, 2, 3], {"logits": LOGITS, "labels": LABELS})
    assert outputs.all_dims == NestingDims([1, 2, 3])
    with pytest.raises(ValueError, match="3 prefixes"):
        list(evaluate(outputs, [LinearHeadEvaluator()]))
