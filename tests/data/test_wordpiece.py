import collections

import numpy as np
import pytest
import tensorflow as tf

from mrl_keras.data import (
    SPECIAL_PIECES,
    Wordpiece,
    learn_vocabulary,
    read_vocabulary,
    write_vocabulary,
)

pytest.importorskip("tensorflow_text")

WORDS = ["river", "rivers", "Zürich", "lake", "lakes", "boat", "walking", "walked", "the", "a"]
PIECES = [*SPECIAL_PIECES, "river", "##s", "lake", "the", ",", "é", "e", "The"]


def made_texts(count, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, 12)) + "." for _ in range(count)]


@pytest.fixture(scope="module")
def vocabulary():
    return learn_vocabulary(made_texts(50), size=80)


def test_a_vocabulary_spells_every_word_of_its_text(vocabulary):
    assert len(vocabulary) <= 80
    assert tuple(vocabulary[:5]) == SPECIAL_PIECES
    assert {"the", "lake", "zurich"} <= set(vocabulary)  # accents and case are gone
    ids = Wordpiece(vocabulary, 40)(made_texts(20, seed=1))["input_word_ids"].numpy()
    assert 1 not in ids


def test_the_same_text_gives_the_same_vocabulary_however_it_comes(vocabulary):
    texts = made_texts(50)
    dataset = tf.data.Dataset.from_tensor_slices(texts)
    for again in (texts[::-1], (text for text in texts), dataset, dataset.batch(7)):
        assert learn_vocabulary(again, size=80) == vocabulary


def test_the_size_is_kept_and_characters_stay():
    texts, size = made_texts(50), 58
    small = learn_vocabulary(texts, size=size)
    assert len(small) <= size
    characters = {c for text in texts for c in text.lower().replace("ü", "u")} - {" "}
    assert characters <= set(small)
    assert {f"##{c}" for c in characters} <= set(small)
    counts = collections.Counter(small)
    assert max(counts.values()) == 1


def test_nothing_is_learned_from_kept_pieces():
    texts = ["[UNK] lake [UNK]"] * 20
    assert "[" in learn_vocabulary(texts, 60)
    kept = learn_vocabulary(texts, 60, kept=["[UNK]"])
    assert set(kept) - set(SPECIAL_PIECES) == {*"lake", "##l", "##a", "##k", "##e", "lake"}


def test_cased():
    vocabulary = learn_vocabulary(made_texts(50), size=80, lower_case=False)
    assert "Zürich" in vocabulary


def test_files(tmp_path, vocabulary):
    path = tmp_path / "deep" / "vocabulary.txt"
    write_vocabulary(path, vocabulary)
    assert read_vocabulary(path) == vocabulary
    assert [p.name for p in path.parent.iterdir()] == ["vocabulary.txt"]
    with pytest.raises(ValueError, match=r"A piece must be one line. Received \['a\\nb'\]"):
        write_vocabulary(path, [*SPECIAL_PIECES, "a\nb"])
    assert read_vocabulary(path) == vocabulary
    with pytest.raises(ValueError, match="There is no vocabulary .*none.txt"):
        read_vocabulary(tmp_path / "none.txt")


SIGNS = ["\u2028", "\u2029", "\x85", "\0", "\r", "\v", "\x1c", "\xa0", "\u3000", "\u1680", "\u2003"]


@pytest.mark.parametrize("lower_case", [True, False])
def test_the_learner_splits_where_the_tokenizer_does(lower_case, tmp_path):
    texts = [f"lake{sign}boat {sign} river" for sign in SIGNS] * 3
    vocabulary = learn_vocabulary(texts, size=60, lower_case=lower_case, least_count=3)
    assert {"lake", "boat", "river"} <= set(vocabulary)
    assert not [piece for piece in vocabulary if set(piece) & set(SIGNS)]
    ids = Wordpiece(vocabulary, 6, lower_case)(texts)["input_word_ids"].numpy()
    assert {tuple(row) for row in ids} == {tuple(ids[0])}
    write_vocabulary(tmp_path / "v.txt", vocabulary)
    assert read_vocabulary(tmp_path / "v.txt") == vocabulary


def test_only_a_newline_ends_a_line(tmp_path):
    vocabulary = [*SPECIAL_PIECES, *SIGNS, *(f"a{sign}b" for sign in SIGNS), "a\r", "\ufeff"]
    write_vocabulary(tmp_path / "v.txt", vocabulary)
    assert read_vocabulary(tmp_path / "v.txt") == vocabulary
    for piece, text in (
        ("a\ud800", "UTF-8 can hold"),
        (b"a", "must be strings"),
        (None, "strings"),
    ):
        with pytest.raises(ValueError, match=text):
            write_vocabulary(tmp_path / "w.txt", [*SPECIAL_PIECES, piece])
    (tmp_path / "w.txt").write_bytes(b"[PAD]\n\xff\n")
    with pytest.raises(ValueError, match="w.txt must be UTF-8"):
        read_vocabulary(tmp_path / "w.txt")


def test_badly_encoded_and_missing_texts():
    broken = [b"lake \xff\xfe lake", "lake \ud800 lake", b"lake"] * 9
    assert "lake" in learn_vocabulary(broken, 60)
    for wrong in (None, float("nan"), 3, ["lake"]):
        with pytest.raises(ValueError, match="`texts` must be strings. Text 1 is"):
            learn_vocabulary(["lake", wrong], 60)


def test_tokens_are_framed_cut_and_padded():
    tokens = Wordpiece(PIECES, 6)(["The rivers, LAKES", "lake", "xyz", ""])
    expected = [[2, 8, 5, 6, 9, 3], [2, 7, 3, 0, 0, 0], [2, 1, 3, 0, 0, 0], [2, 3, 0, 0, 0, 0]]
    np.testing.assert_array_equal(tokens["input_word_ids"], expected)
    np.testing.assert_array_equal(tokens["input_mask"], np.array(expected) != 0)
    np.testing.assert_array_equal(tokens["input_type_ids"], np.zeros((4, 6)))
    assert {value.dtype for value in tokens.values()} == {tf.int32}


def test_case_and_accents():
    words = ["é The"]
    lower, cased = (Wordpiece(PIECES, 4, lower_case=flag)(words) for flag in (True, False))
    np.testing.assert_array_equal(lower["input_word_ids"], [[2, 11, 8, 3]])
    np.testing.assert_array_equal(cased["input_word_ids"], [[2, 10, 12, 3]])


def test_special_pieces_are_read_where_they_are_kept():
    texts = ["the [MASK], [UNK]", "[MASK][MASK]lake", "", "lake"]
    kept = Wordpiece(PIECES, 8, kept=["[MASK]", "[UNK]"])
    expected = [[8, 4, 9, 1], [4, 4, 7], [], [7]]
    assert kept.pieces(texts).to_list() == expected
    assert Wordpiece(PIECES, 8).pieces(texts).to_list() != expected
    framed = kept(texts)["input_word_ids"].numpy().tolist()
    assert framed[0] == [2, 8, 4, 9, 1, 3, 0, 0]


def test_static_shapes_in_a_pipeline():
    data = tf.data.Dataset.from_tensor_slices(made_texts(8)).batch(4, drop_remainder=True)
    spec = data.map(Wordpiece(PIECES, 6, kept="[MASK]")).element_spec
    assert {value.shape[1] for value in spec.values()} == {6}
    static = data.map(lambda text: Wordpiece(PIECES, 6)(text)).element_spec
    assert all(tuple(value.shape)[1:] == (6,) for value in static.values())


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: learn_vocabulary([], 50), "`texts` must hold at least one word"),
        (lambda: learn_vocabulary(["  "], 50), "`texts` must hold at least one word"),
        (lambda: learn_vocabulary("one", 50), "`texts` must be several strings"),
        (lambda: learn_vocabulary(made_texts(9), 20), "`size` must be at least .* Received 20"),
        (lambda: learn_vocabulary(tf.data.Dataset.range(3), 9), "must have strings .* as elements"),
        (lambda: Wordpiece(PIECES[1:], 8), r"must have .* one without \[PAD\];"),
        (lambda: Wordpiece([*PIECES, "the"], 8), r"Received \['the'\] more than once"),
        (lambda: Wordpiece([*PIECES, ""], 8), "none be empty"),
        (lambda: Wordpiece(PIECES, 2), "`length` must be at least 3. Received 2"),
        (lambda: Wordpiece(PIECES, 8, kept=["[mask]"]), r"`kept` must be some of .*\['\[mask\]'\]"),
    ],
)
def test_refusals(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_special_pieces_are_found_by_name():
    unused = [f"[unused{i}]" for i in range(98)]
    words = ["river", "##s", "lake", "the", ",", "é", "e", "The"]
    published = ["[PAD]", *unused, "x", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    texts = ["the rivers [MASK] [UNK]", "zzz", "", "lake [PAD]"]
    kept = ["[MASK]", "[UNK]"]
    ours, theirs = (Wordpiece(pieces, 8, kept=kept) for pieces in (PIECES, published))
    assert theirs.special_ids == (0, 100, 101, 102, 103)
    assert ours.special_ids == (0, 1, 2, 3, 4)
    places = np.array([published.index(piece) for piece in PIECES])
    for name, value in ours(texts).items():
        expected = places[value] if name == "input_word_ids" else value
        np.testing.assert_array_equal(theirs(texts)[name], expected)
    last = Wordpiece([*words, *SPECIAL_PIECES[::-1]], 8, kept=kept)(texts)
    np.testing.assert_array_equal(last["input_mask"], ours(texts)["input_mask"])
    assert last["input_word_ids"].numpy()[0].tolist() == [10, 3, 0, 1, 8, 11, 9, 12]
