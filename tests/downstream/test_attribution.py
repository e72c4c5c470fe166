"""Scores of bases: the gradient's are right to first order, mutagenesis's exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmgems_jax.config import TokensConfig
from cmgems_jax.downstream.motifs import attribution
from cmgems_jax.errors import InputError
from cmgems_jax.genome import vocabulary
from tests.downstream.random_classifier import make_classifier, slow_logits


def random_bases(*shape: int, seed: int = 0) -> np.ndarray:
    """Returns uint8 codes of known bases."""
    return np.random.default_rng(seed).integers(0, 4, shape).astype(np.uint8)


def slow_log_odds(classifier, bases_M: np.ndarray, label: int) -> float:
    """Returns log p / (1 - p) of one sequence, by the probabilities themselves."""
    logits = np.asarray(slow_logits(classifier, bases_M), np.float64)
    p = np.exp(logits - logits.max())
    p /= p.sum()
    return float(np.log(p[label] / np.delete(p, label).sum()))


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_scores_are_the_gradient_times_the_change_of_embeddings_summed_over_kmers(stride):
    k, num_bases = 3, 14
    rng = np.random.default_rng(0)
    bases_BM = random_bases(2, num_bases)
    bases_BM[1, 5] = vocabulary.AMBIGUOUS
    bases_BM[1, 11:] = vocabulary.PADDING
    ids_BT = vocabulary.tokenize(bases_BM, k, stride)
    gradient_BTD = rng.normal(size=(*ids_BT.shape, 8)).astype(np.float32)
    table_VD = rng.normal(size=(vocabulary.size(k), 8)).astype(np.float32)
    expected = np.zeros(bases_BM.shape)
    for row, ids_T in enumerate(ids_BT):
        for token, code in enumerate(ids_T):
            if code < vocabulary.NUM_SPECIAL:
                continue
            start = token * stride
            kmer = bases_BM[row, start : start + k]
            for place in range(k):
                for base in set(range(4)) - {int(kmer[place])}:
                    other = kmer.copy()
                    other[place] = base
                    change = table_VD[code] - table_VD[vocabulary.tokenize(other, k)[0]]
                    effect = gradient_BTD[row, token].astype(np.float64) @ change
                    expected[row, start + place] += effect / 3
    found = attribution.scores_from_gradients(
        jnp.asarray(gradient_BTD), jnp.asarray(ids_BT), jnp.asarray(table_VD), num_bases,
        TokensConfig(k=k, stride=stride),
    )  # fmt: skip
    np.testing.assert_allclose(found, expected, atol=2e-5)  # float32 sums of 72 products
    assert (expected[1, 11:] == 0).all()


@pytest.mark.parametrize("head", ["cls", "features"])
def test_the_gradient_is_that_of_the_log_odds_with_respect_to_the_word_table(head):
    """In a sequence whose k-mers all differ, the table's rows stand for the positions."""
    classifier = make_classifier(num_classes=3, head=head)
    bases_M = vocabulary.encode("ATCGGATTAC")
    ids_T = vocabulary.tokenize(bases_M, 3)
    assert len(set(ids_T.tolist())) == len(ids_T)

    def of_table(table_VD: jax.Array) -> jax.Array:
        params = dict(classifier.params, encoder=dict(classifier.params["encoder"]))
        params["encoder"]["word_embeddings"] = {"embedding": table_VD}
        logits = slow_logits(classifier, bases_M, params)
        return logits[2] - jnp.log(jnp.exp(logits[0]) + jnp.exp(logits[1]))

    table_VD = classifier.params["encoder"]["word_embeddings"]["embedding"]
    gradient_TD = jax.grad(of_table)(jnp.asarray(table_VD))[ids_T]
    expected = attribution.scores_from_gradients(
        gradient_TD[None], jnp.asarray(ids_T)[None], jnp.asarray(table_VD), len(bases_M),
        TokensConfig(k=3),
    )  # fmt: skip
    found = attribution.base_scores(classifier, bases_M[None], 2)
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=1e-4)


def test_for_small_embedding_differences_scores_are_minus_the_mean_mutagenesis():
    """The first order is all there is when k-mers differ by a thousandth of the usual."""
    classifier = make_classifier()
    table = np.array(classifier.params["encoder"]["word_embeddings"]["embedding"])
    kmers = table[vocabulary.NUM_SPECIAL :]
    table[vocabulary.NUM_SPECIAL :] = kmers[:1] + 1e-2 * (kmers - kmers[:1])
    classifier.params["encoder"]["word_embeddings"]["embedding"] = jnp.asarray(table)
    bases_M = random_bases(20)
    score_M = attribution.base_scores(classifier, bases_M[None], 1)[0]
    change_M = attribution.mutagenesis(classifier, 1)(bases_M).sum(axis=1) / 3
    scale = np.abs(score_M).max()
    np.testing.assert_allclose(score_M / scale, -change_M / scale, atol=0.03)


def test_mutagenesis_is_the_change_of_log_odds_of_every_mutant():
    classifier = make_classifier(num_classes=3)
    bases_M = vocabulary.encode("ATCGGATTNC")
    found = attribution.mutagenesis(classifier, 0, batch_size=8)(bases_M)
    assert found.shape == (10, 4) and found.dtype == np.float32
    reference = slow_log_odds(classifier, bases_M, 0)
    for place in range(10):
        for base in range(4):
            mutant = bases_M.copy()
            mutant[place] = base
            expected = slow_log_odds(classifier, mutant, 0) - reference
            assert found[place, base] == pytest.approx(expected, abs=1e-5)  # float32 logits
            if base == bases_M[place]:
                assert found[place, base] == 0


def test_scores_depend_neither_on_padding_nor_on_the_batch():
    classifier = make_classifier()
    bases_NM = random_bases(7, 20)
    bases_NM[3, 12:] = vocabulary.PADDING
    together = attribution.base_scores(classifier, bases_NM, 1, batch_size=4)
    assert together.shape == (7, 20) and together.dtype == np.float32
    assert (together[3, 12:] == 0).all()
    alone = attribution.base_scores(classifier, bases_NM[3:4, :12], 1)
    np.testing.assert_allclose(together[3:4, :12], alone, atol=1e-6, rtol=1e-4)
    for row in (0, 6):
        alone = attribution.base_scores(classifier, bases_NM[row : row + 1], 1)
        np.testing.assert_allclose(together[row : row + 1], alone, atol=1e-6, rtol=1e-4)


def test_log_odds_of_two_classes_is_the_difference_of_the_logits():
    logits = jnp.array([[0.5, 2.0], [100.0, -100.0]])
    np.testing.assert_allclose(attribution.log_odds(logits, 1), [1.5, -200])
    np.testing.assert_allclose(attribution.log_odds(logits, 0), [-1.5, 200])


@pytest.mark.parametrize("length", [2, 23])
def test_a_sequence_that_the_classifier_does_not_take_is_refused(length):
    classifier = make_classifier()  # 22 positions: 20 3-mers, 22 bases
    bases_NM = np.full((2, 30), vocabulary.PADDING, np.uint8)
    bases_NM[0, :10], bases_NM[1, :length] = 0, 0
    message = f"sequence 2: {length} bases; the classifier takes 3 to 22"
    with pytest.raises(InputError, match=message):
        attribution.base_scores(classifier, bases_NM, 1)
    with pytest.raises(InputError, match=f"{length} bases; the classifier takes"):
        attribution.mutagenesis(classifier, 1)(bases_NM[1, :length])
