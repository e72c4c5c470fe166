"""Counts, PMI, NPMI and ranks, against brute force and the published values."""

import collections
import itertools
import math

import numpy as np
import pytest

from cmgems_jax.genome import vocabulary
from cmgems_jax.pmi import counts as pmi_counts
from cmgems_jax.pmi import scores as pmi_scores
from cmgems_jax.pmi import table as pmi_table

PUBLISHED = {
    "CCTCCC": (2.103076, 1), "GGGAGG": (2.093004, 2), "GTGTGT": (2.042932, 3),
    "CCCAGC": (2.026842, 4), "ATGGAC": (0.902405, 1999), "GACCCC": (0.902385, 2000),
    "GTTAGC": (0.901913, 2001), "GAAGTA": (0.901906, 2002), "ACGCGA": (-1.164891, 4094),
    "TCGCGT": (-1.180171, 4095), "TCGCGA": (-1.352466, 4096),
}  # fmt: skip


def random_contigs(seed: int, lengths: tuple[int, ...]) -> list[np.ndarray]:
    """Returns contigs with uneven base frequencies, so that counts differ."""
    rng = np.random.default_rng(seed)
    return [rng.choice(4, n, p=(0.4, 0.3, 0.2, 0.1)).astype(np.uint8) for n in lengths]


def slow_counts(contigs: list[np.ndarray], n: int) -> collections.Counter:
    """Counts n-grams as text, contig by contig."""
    texts = [vocabulary.decode(contig) for contig in contigs]
    return collections.Counter(
        text[start : start + n] for text in texts for start in range(len(text) - n + 1)
    )


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_counts_of_both_strands_are_those_of_the_contigs_and_their_other_strands(n):
    """A palindrome is read on both: it counts twice."""
    contigs = random_contigs(n, (3, 40, 500))
    forward = pmi_counts.count_ngrams(contigs, n)[n - 1]
    other = [vocabulary.reverse_complement(contig) for contig in contigs]
    expected = pmi_counts.count_ngrams([*contigs, *other], n)[n - 1]
    np.testing.assert_array_equal(pmi_counts.of_both_strands(forward), expected)


def segmentations(kmer: str, longest: int) -> list[list[str]]:
    """Returns every way to cut a k-mer into two or more pieces of at most `longest` bases."""
    ways = []
    for cuts in itertools.chain.from_iterable(
        itertools.combinations(range(1, len(kmer)), number) for number in range(1, len(kmer))
    ):
        edges = [0, *cuts, len(kmer)]
        pieces = [kmer[a:b] for a, b in itertools.pairwise(edges)]
        if max(map(len, pieces)) <= longest:
            ways.append(pieces)
    return ways


def slow_pmi(contigs: list[np.ndarray], kmer: str, segmentation: str) -> float:
    """The specification's formula, by brute force."""
    counts = {n: slow_counts(contigs, n) for n in range(1, len(kmer) + 1)}
    factor = 2 if segmentation == "published" else 1
    longest = 2 if segmentation == "published" else len(kmer) - 1

    def log_p(piece: str) -> float:
        return math.log(counts[len(piece)][piece] / (factor * counts[len(piece)].total()))

    return min(log_p(kmer) - sum(map(log_p, pieces)) for pieces in segmentations(kmer, longest))


@pytest.mark.parametrize("max_n", [1, 2, 3, 6, 8])
def test_counts_equal_a_counter_of_every_contig_alone(max_n):
    contigs = random_contigs(max_n, (500, 1, 2, 3, 5, 6, 7, 8, 9, 77))
    counts = pmi_counts.count_ngrams(contigs, max_n)
    assert len(counts) == max_n
    for n, found in enumerate(counts, 1):
        expected = slow_counts(contigs, n)
        assert found.dtype == np.int64 and found.sum() == expected.total()
        for code, name in enumerate(itertools.product("ATCG", repeat=n)):
            if found[code] or expected["".join(name)]:
                assert found[code] == expected["".join(name)], (n, name)


def test_counts_do_not_depend_on_the_batch(monkeypatch):
    contigs = random_contigs(0, (1_000, 13, 2, 64, 65, 3, 128))
    for max_n in (1, 5, 8):
        whole = pmi_counts.count_ngrams(contigs, max_n)
        for batch in (1, 7, 64):
            with monkeypatch.context() as patch:
                patch.setattr(pmi_counts, "_BATCH", batch)
                parts = pmi_counts.count_ngrams(contigs, max_n)
            for found, expected in zip(parts, whole, strict=True):
                np.testing.assert_array_equal(found, expected)


def test_counts_from_kmers_miss_only_the_contigs_ends():
    contigs = random_contigs(1, (400, 300))
    exact = pmi_counts.count_ngrams(contigs, 4)
    for n, found in enumerate(pmi_counts.counts_from_kmers(exact[3]), 1):
        missing = exact[n - 1] - found
        assert missing.min() >= 0 and missing.sum() <= 2 * (4 - n)


@pytest.mark.parametrize("segmentation", pmi_scores.SEGMENTATIONS)
def test_a_kmer_that_occurs_has_a_finite_pmi_though_its_pieces_begin_no_kmer(segmentation):
    """T begins no 3-mer of these counts: were f(T) = 0, PMI(AAT) would be infinite."""
    kmer_counts = np.zeros(64, np.int64)
    kmer_counts[[vocabulary.kmer_code("AAA"), vocabulary.kmer_code("AAT")]] = (50, 10)
    counts = pmi_counts.counts_from_kmers(kmer_counts)
    np.testing.assert_array_equal(counts[0], [60, 10, 0, 0])
    scores = pmi_scores.npmi(counts, 3, segmentation=segmentation)
    np.testing.assert_array_equal(np.isfinite(scores), kmer_counts > 0)


@pytest.mark.parametrize("segmentation", pmi_scores.SEGMENTATIONS)
@pytest.mark.parametrize("k", [3, 5, 6])
def test_pmi_is_the_least_over_all_segmentations(segmentation, k):
    contigs = random_contigs(k, (700, 300))
    scores = pmi_scores.pmi(pmi_counts.count_ngrams(contigs, k), k, segmentation=segmentation)
    present = list(slow_counts(contigs, k))[:40]
    for kmer in present:
        expected = slow_pmi(contigs, kmer, segmentation)
        assert scores[vocabulary.kmer_code(kmer)] == pytest.approx(expected, abs=1e-12)


def test_the_two_piece_term_of_the_papers_example():
    """f(ATG)=100, f(CAT)=80, f(ATGCAT)=20: log((20/N6) / ((100/N3) * (80/N3)))."""
    counts = [np.ones(4**n, np.int64) * 10**9 for n in range(1, 7)]
    atg, cat = vocabulary.kmer_code("ATG"), vocabulary.kmer_code("CAT")
    # Make every other cut worse: only ATG|CAT consists of likely pieces.
    for n in (1, 2, 4, 5):
        counts[n - 1][:] = 1
        counts[n - 1][-1] = 10**12  # GG..G, in no piece of ATGCAT but the letter G
    counts[0][:] = (1, 1, 1, 10**6)
    counts[2][:] = 50
    counts[2][[atg, cat]] = (100, 80)
    counts[5][:] = 30
    counts[5][vocabulary.kmer_code("ATGCAT")] = 20
    total3, total6 = counts[2].sum(), counts[5].sum()
    expected = math.log((20 / total6) / ((100 / total3) * (80 / total3)))
    found = pmi_scores.pmi(counts, 6, segmentation="full")[vocabulary.kmer_code("ATGCAT")]
    assert found == pytest.approx(expected, abs=1e-12)


def test_npmi_discounts_rare_kmers_by_the_papers_weight():
    counts = pmi_counts.count_ngrams(random_contigs(2, (5_000,)), 3)
    plain, scaled = pmi_scores.pmi(counts, 3), pmi_scores.npmi(counts, 3, min_count=101)
    for code in (0, 17, 63):
        log_f = math.log(counts[2][code])
        assert scaled[code] == pytest.approx(plain[code] * log_f / (log_f + math.log(101)))


def test_embedded_counts_give_the_published_grch38_values_and_ranks():
    """The specification allows 0.0025 and 4 ranks: n-grams at contig ends are not in the counts."""
    scores = pmi_scores.npmi(pmi_counts.counts_from_kmers(pmi_table.grch38_counts()), 6)
    ranks = pmi_scores.rank(scores)
    for kmer, (value, place) in PUBLISHED.items():
        code = vocabulary.kmer_code(kmer)
        assert scores[code] == pytest.approx(value, abs=0.0025), kmer
        assert abs(int(ranks[code]) - place) <= 4, kmer


def test_the_two_definitions_rank_differently():
    """Spearman 0.888 on GRCh38, says the specification."""
    counts = pmi_counts.counts_from_kmers(pmi_table.grch38_counts())
    one, other = (
        pmi_scores.rank(pmi_scores.npmi(counts, 6, segmentation=name)).astype(float)
        for name in pmi_scores.SEGMENTATIONS
    )
    assert np.corrcoef(one, other)[0, 1] == pytest.approx(0.888, abs=0.0005)


def test_ranks_start_at_one_break_ties_by_code_and_put_absent_kmers_last():
    scores = np.array([0.5, np.nan, 2.0, 0.5, -3.0, np.nan])
    np.testing.assert_array_equal(pmi_scores.rank(scores), [2, 5, 1, 3, 4, 6])
    assert pmi_scores.rank(scores).dtype == np.int32


def test_an_absent_kmer_has_no_pmi():
    contigs = [vocabulary.encode("ATATATATATCCC")]
    scores = pmi_scores.npmi(pmi_counts.count_ngrams(contigs, 3), 3)
    assert np.isnan(scores[vocabulary.kmer_code("GGG")])
    assert np.isfinite(scores[vocabulary.kmer_code("ATA")])
