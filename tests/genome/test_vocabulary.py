"""DNABERT's ids, letters, and one tokenizer for numpy and jax."""

import jax.numpy as jnp
import numpy as np
import pytest

from cmgems_jax.genome import vocabulary


def slow_tokenize(text: str, k: int, stride: int) -> list[int]:
    """Letter by letter, from the specification."""
    ids = []
    for start in range(0, len(text) - k + 1, stride):
        kmer = text[start : start + k].upper().replace("U", "T")
        code = 0
        for letter in kmer:
            code = code * 4 + "ATCG".find(letter)
        ids.append(5 + code if set(kmer) <= set("ATCG") else 1)
    return ids


def random_text(rng: np.random.Generator, length: int, letters: str = "ACGTacgtUuNRn-") -> str:
    """Returns mostly bases, some other letters."""
    weights = np.where(np.isin(list(letters), list("ACGTacgtUu")), 10, 1)
    return "".join(rng.choice(list(letters), length, p=weights / weights.sum()))


def test_ids_are_dnaberts():
    tokens = vocabulary.tokens(6)
    assert tokens[:10] == [
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]",
        "AAAAAA", "AAAAAT", "AAAAAC", "AAAAAG", "AAAATA",
    ]  # fmt: skip
    assert len(tokens) == vocabulary.size(6) == 4_101
    assert (vocabulary.PAD, vocabulary.UNK, vocabulary.CLS, vocabulary.SEP, vocabulary.MASK) == (
        0, 1, 2, 3, 4,
    )  # fmt: skip


@pytest.mark.parametrize("k", range(vocabulary.MIN_K, vocabulary.MAX_K + 1))
def test_numpy_and_jax_tokenize_as_the_slow_version_for_every_stride(k):
    rng = np.random.default_rng(k)
    for stride in range(1, k + 1):
        text = random_text(rng, 60)
        bases = vocabulary.encode(text)
        expected = slow_tokenize(text, k, stride)
        found = vocabulary.tokenize(bases, k, stride)
        assert isinstance(found, np.ndarray) and found.dtype == np.int32
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(vocabulary.tokenize(jnp.asarray(bases), k, stride), expected)


def test_the_other_strand_is_read_backwards_and_padding_stays_behind():
    """Against letters: A-T, C-G, N stays; numpy and jax alike, and twice is nothing."""
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("ACGTN"), length)) for length in (12, 7, 1, 0)]
    rows = np.full((2, 2, 12), vocabulary.PADDING, np.uint8)
    for row, text in zip(rows.reshape(4, 12), texts, strict=True):
        row[: len(text)] = vocabulary.encode(text)
    found = vocabulary.reverse_complement(rows)
    assert isinstance(found, np.ndarray) and found.dtype == np.uint8
    for row, text in zip(found.reshape(4, 12), texts, strict=True):
        expected = text[::-1].translate(str.maketrans("ACGT", "TGCA"))
        assert vocabulary.decode(row) == expected
        assert (row[len(text) :] == vocabulary.PADDING).all()
    in_jax = vocabulary.reverse_complement(jnp.asarray(rows))
    assert in_jax.dtype == jnp.uint8
    np.testing.assert_array_equal(in_jax, found)
    np.testing.assert_array_equal(vocabulary.reverse_complement(found), rows)


def test_a_batch_is_tokenized_row_by_row():
    rows = np.random.default_rng(0).integers(0, 6, (3, 4, 20)).astype(np.uint8)
    found = vocabulary.tokenize(rows, 4, 2)
    assert found.shape == (3, 4, 9)
    for place in np.ndindex(3, 4):
        np.testing.assert_array_equal(found[place], vocabulary.tokenize(rows[place], 4, 2))


def test_kmers_into_the_padding_are_pad_even_beside_an_ambiguous_base():
    bases = np.r_[vocabulary.encode("ACGTN"), [vocabulary.PADDING] * 2].astype(np.uint8)
    np.testing.assert_array_equal(
        vocabulary.tokenize(bases, 3), [*slow_tokenize("ACGTN", 3, 1), 0, 0]
    )


def test_a_sequence_shorter_than_k_has_no_token():
    assert vocabulary.tokenize(vocabulary.encode("ACG"), 6).shape == (0,)
    assert vocabulary.num_tokens(5, 6) == 0


def test_a_full_window_of_510_tokens_holds_515_bases():
    assert vocabulary.num_bases(510, 6) == 515
    assert vocabulary.num_tokens(515, 6) == 510
    assert vocabulary.num_tokens(30, 3, stride=3) == 10


def test_lower_case_and_u_are_bases_and_other_letters_are_ambiguous():
    np.testing.assert_array_equal(vocabulary.encode("AaTtUuCcGg"), [0, 0, 1, 1, 1, 1, 2, 2, 3, 3])
    assert set(vocabulary.encode("NRYKMSWBDHVX-*.1 é€")) == {vocabulary.AMBIGUOUS}
    assert vocabulary.decode(vocabulary.encode("acgun")) == "ACGTN"
    assert vocabulary.decode(vocabulary.encode("acgtn"), "rna") == "ACGUN"


@pytest.mark.parametrize("k", [3, 6])
def test_kmers_and_codes_agree(k):
    names = vocabulary.kmers(k)
    assert [vocabulary.kmer_code(name) for name in names[:: 4 ** (k - 2)]] == list(
        range(0, 4**k, 4 ** (k - 2))
    )
    assert "".join(names[1]) == "A" * (k - 1) + "T"
    assert vocabulary.kmers(3, "rna")[1] == "AAU"


def test_a_kmer_with_another_letter_has_no_code():
    with pytest.raises(ValueError, match="'ACN': expected only"):
        vocabulary.kmer_code("ACN")
