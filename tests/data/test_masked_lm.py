import itertools

import numpy as np
import pytest
import tensorflow as tf

from mrl_keras.data import (
    SPECIAL_PIECES,
    Sampling,
    Wordpiece,
    masked_lm_batches,
    masked_lm_evaluation,
    token_rows,
)
from mrl_keras.data.text.masked_lm import mask_tokens

VOCABULARY = 1000
RNG = np.random.default_rng(0)
ROWS = RNG.integers(5, VOCABULARY, (10, 32)).astype("int32")
ROWS[:, 0], ROWS[:, -1] = 2, 3
ROWS[3, 6:] = 0  # a short row, five pieces
ROWS[4, 1:] = 0  # a row without a piece


def take(dataset, count=None):
    """The batches as flat dicts of arrays."""
    return [
        {**{key: value.numpy() for key, value in inputs.items()},
         "labels": labels.numpy(), "weights": weights.numpy()}
        for inputs, labels, weights in itertools.islice(dataset, count)
    ]  # fmt: skip


def assert_same(one, other):
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        for key, value in a.items():
            np.testing.assert_array_equal(value, b[key], err_msg=key)


def batches(batch_size=4, seed=1, shard=(0, 1), start_step=0, **options):
    sampling = Sampling(seed, *shard, start_step)
    return masked_lm_batches(ROWS, batch_size, VOCABULARY, 4, sampling=sampling, **options)


class TestMasked:
    seeds = np.stack([np.zeros(10), np.zeros(10), np.arange(10)], 1).astype("int64")

    def test_what_is_hidden_and_what_is_asked(self):
        inputs, labels, weights = mask_tokens(tf.constant(ROWS), self.seeds, VOCABULARY, 5)
        words, places = inputs["input_word_ids"].numpy(), inputs["masked_lm_positions"].numpy()
        used = weights.numpy() > 0
        # 15 percent of 30 pieces, of 5 and of none
        expected = [5 if row not in (3, 4) else (1 if row == 3 else 0) for row in range(10)]
        np.testing.assert_array_equal(used.sum(1), np.where(np.array(expected) == 5, 4, expected))
        rows = np.broadcast_to(np.arange(10)[:, None], places.shape)
        np.testing.assert_array_equal(labels.numpy()[used], ROWS[rows, places][used])
        np.testing.assert_array_equal(inputs["masked_lm_ids"], labels)
        np.testing.assert_array_equal(labels.numpy()[~used], 0)
        assert (labels.numpy()[used] >= len(SPECIAL_PIECES)).all()
        changed = words != ROWS
        asked = np.zeros_like(changed)
        asked[rows[used], places[used]] = True
        assert asked.sum() == used.sum()  # no place is asked for twice
        assert not (changed & ~asked).any()
        np.testing.assert_array_equal(inputs["input_mask"], ROWS != 0)

    def test_eighty_ten_ten(self):
        rows = np.full((2000, 102), 7, "int32")
        rows[:, 0], rows[:, -1] = 2, 3
        seeds = np.stack([np.zeros(2000), np.zeros(2000), np.arange(2000)], 1).astype("int64")
        inputs, _, weights = mask_tokens(tf.constant(rows), seeds, VOCABULARY, 30)
        assert float(tf.reduce_sum(weights)) == 2000 * 15
        places = inputs["masked_lm_positions"].numpy()[weights.numpy() > 0]
        # Every place is chosen about as often: 300 times, with a deviation of 16.
        counts = np.bincount(places, minlength=102)[1:-1]
        assert abs(counts - 300).max() < 80
        words = inputs["input_word_ids"].numpy()[:, 1:-1].ravel()
        shares = np.bincount(words, minlength=VOCABULARY) / 30_000
        assert shares[4] == pytest.approx(0.8, abs=0.01)
        changed = shares[4] + np.delete(shares, [4, 7]).sum()
        assert changed == pytest.approx(0.9, abs=0.01)
        assert shares[:4].sum() == 0  # a random piece is no special one
        assert shares[-1] > 0
        assert shares[5] > 0


class TestBatches:
    def test_shapes_are_static(self):
        for data in (batches(), masked_lm_evaluation(ROWS, 4, VOCABULARY, 4)):
            inputs, labels, weights = data.element_spec
            assert {tuple(spec.shape) for spec in inputs.values()} == {(4, 32), (4, 4)}
            assert tuple(labels.shape) == tuple(weights.shape) == (4, 4)

    @pytest.mark.slow
    def test_the_seed_decides_and_any_step_can_be_the_first(self):
        whole = take(batches(), 9)
        assert_same(take(batches(), 9), whole)
        assert_same(take(batches(start_step=5), 4), whole[5:])
        other = take(batches(seed=2), 9)
        assert any((a["labels"] != b["labels"]).any() for a, b in zip(whole, other, strict=True))

    def test_an_epoch_holds_every_row_once_with_new_masks(self):
        found = take(batches(batch_size=10), 2)
        firsts = []
        for batch in found:
            rows = batch["input_word_ids"].copy()
            used = batch["weights"] > 0
            numbers = np.broadcast_to(np.arange(10)[:, None], used.shape)
            rows[numbers[used], batch["masked_lm_positions"][used]] = batch["labels"][used]
            order = np.lexsort(rows.T)
            np.testing.assert_array_equal(rows[order], ROWS[np.lexsort(ROWS.T)])
            firsts.append(batch["masked_lm_positions"][order])
        assert (firsts[0] != firsts[1]).any()

    @pytest.mark.slow
    def test_workers_share_the_batch_of_one(self):
        whole = take(batches(batch_size=6, start_step=2), 3)
        shards = [take(batches(batch_size=2, shard=(i, 3), start_step=2), 3) for i in range(3)]
        for step, batch in enumerate(whole):
            parts = [shard[step]["input_word_ids"] for shard in shards]
            np.testing.assert_array_equal(np.concatenate(parts), batch["input_word_ids"])

    def test_evaluation_is_fixed_and_filled_up(self):
        found = take(masked_lm_evaluation(ROWS, 4, VOCABULARY, 4))
        assert_same(take(masked_lm_evaluation(ROWS, 4, VOCABULARY, 4)), found)
        weights = np.concatenate([batch["weights"] for batch in found])
        assert weights.shape == (12, 4)
        assert weights[10:].sum() == 0
        assert weights[:10].sum() == 4 * 8 + 1
        whole = take(masked_lm_evaluation(ROWS, 10, VOCABULARY, 4))[0]["labels"]
        np.testing.assert_array_equal(np.concatenate([b["labels"] for b in found])[:10], whole)


class TestRows:
    wordpiece = Wordpiece([*SPECIAL_PIECES, *"abcdefg"], length=6)
    texts = ("a b c d e f g", "", "a b", "c")

    def test_each_text_for_itself(self):
        rows = token_rows(self.wordpiece, self.texts, packed=False)
        expected = [
            [2, 5, 6, 7, 8, 3],
            [2, 9, 10, 11, 3, 0],
            [2, 5, 6, 3, 0, 0],
            [2, 7, 3, 0, 0, 0],
        ]
        np.testing.assert_array_equal(rows, expected)

    def test_packed_rows_are_full_and_nothing_is_lost(self):
        rows = token_rows(self.wordpiece, self.texts)
        assert (rows[:-1] != 0).all()
        pieces = rows[rows >= 5]
        np.testing.assert_array_equal(pieces, [5, 6, 7, 8, 9, 10, 11, 5, 6, 7])


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: batches(rate=1.0), "`rate` must lie between 0 and 1. Received 1.0"),
        (lambda: batches(batch_size=0), "`batch_size` must be at least 1"),
        (lambda: batches(shard=(2, 2)), "must be below the count 2"),
        (lambda: masked_lm_batches(ROWS, 4, 9, 31), "must not exceed the 30 pieces of a row"),
        (lambda: masked_lm_batches(ROWS[:0], 4, 9, 3), "of at least one row"),
        (lambda: masked_lm_evaluation(ROWS[0], 4, 9, 3), r"of at least one row.*\(32,\)"),
        (lambda: token_rows(TestRows.wordpiece, ["", " "]), "The texts hold no word"),
    ],
)
def test_refusals(call, text):
    with pytest.raises(ValueError, match=text):
        call()


@pytest.mark.slow
def test_special_ids_elsewhere_give_the_same_masks():
    """The vocabulary in another order: the same batches, with the other ids."""
    other = np.random.default_rng(3).permutation(VOCABULARY).astype("int32")
    other = np.concatenate([other[:5], np.sort(other[5:])])  # ordinary pieces in their order
    special = tuple(int(one) for one in other[:5])
    for make in (masked_lm_batches, masked_lm_evaluation):
        ours = next(iter(make(ROWS, 4, VOCABULARY, 4)))
        theirs = next(iter(make(other[ROWS], 4, VOCABULARY, 4, special_ids=special)))
        for name, value in ours[0].items():
            renamed = name in ("input_word_ids", "masked_lm_ids")
            np.testing.assert_array_equal(theirs[0][name], other[value] if renamed else value)
        np.testing.assert_array_equal(theirs[1], other[ours[1]])
        np.testing.assert_array_equal(theirs[2], ours[2])
