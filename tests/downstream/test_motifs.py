"""Motifs: planted ones are found, absent ones are not, and every count is right."""

import numpy as np
import pytest
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from scipy import stats

from cmgems_jax import known_motifs
from cmgems_jax.downstream.motifs import enrichment, motifs
from cmgems_jax.downstream.motifs import figures as motif_figures
from cmgems_jax.downstream.motifs import report as motif_report
from cmgems_jax.downstream.motifs.enrichment import MotifSettings
from cmgems_jax.genome import vocabulary

MOTIF = "TATAAAAG"
PADDING = vocabulary.PADDING


def planted(num: int = 400, length: int = 60, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Returns bases (N, M), is_positive (N,), scores (N, M): noisy sites in 90 % of positives."""
    rng = np.random.default_rng(seed)
    bases_NM = rng.integers(0, 4, (num, length)).astype(np.uint8)
    scores_NM = rng.normal(0, 1, (num, length))
    for row in range(num // 2):
        site = vocabulary.encode(MOTIF).copy()
        if rng.random() < 0.4:
            site[rng.integers(len(site))] = rng.integers(4)
        start = rng.integers(length - len(site) + 1)
        if rng.random() < 0.9:
            bases_NM[row, start : start + len(site)] = site
            scores_NM[row, start : start + len(site)] += 3
    return bases_NM, np.arange(num) < num // 2, scores_NM


def test_a_planted_motif_is_found_whole_and_alone():
    bases_NM, is_positive_N, scores_NM = planted()
    found, regions_R3, _ = motifs.find_motifs(bases_NM, is_positive_N, scores_NM, MotifSettings())
    assert [motif.consensus for motif in found] == [MOTIF]
    assert found[0].q < 1e-20 and found[0].seed in MOTIF
    assert found[0].num_sites > 120 and len(regions_R3) > 180
    frequency_W = found[0].frequencies_W4[np.arange(8), vocabulary.encode(MOTIF)]
    assert (frequency_W > 0.85).all()  # 0.4 of the sites differ in one of 8 places: 0.96


def test_two_planted_motifs_are_told_apart():
    bases_NM, is_positive_N, scores_NM = planted()
    other = vocabulary.encode("GGCCAATC")
    for row in range(100):
        bases_NM[row, 2:10], scores_NM[row, 2:10] = other, 4
    found, _, _ = motifs.find_motifs(bases_NM, is_positive_N, scores_NM, MotifSettings())
    assert sorted(motif.consensus for motif in found) == sorted([MOTIF, "GGCCAATC"])


def test_labels_by_chance_give_no_motif_in_most_draws():
    """At q 0.05 a set without a difference gives a false motif in 5 % of the draws."""
    bases_NM, is_positive_N, scores_NM = planted()
    num_false = 0
    for seed in range(20):
        shuffled_N = np.random.default_rng(seed).permutation(is_positive_N)
        num_false += bool(motifs.find_motifs(bases_NM, shuffled_N, scores_NM, MotifSettings())[0])
    assert num_false <= 4  # the binomial probability of more is 0.3 %


def test_motifs_of_the_negatives_are_not_reported():
    bases_NM, is_positive_N, scores_NM = planted()
    assert not motifs.find_motifs(bases_NM, ~is_positive_N, scores_NM, MotifSettings())[0]


def test_sequences_of_any_length_and_ambiguous_letters_are_taken():
    bases_NM, is_positive_N, scores_NM = planted()
    bases_NM[1, 4:] = PADDING  # shorter than a k-mer
    bases_NM[2, 30:] = PADDING
    bases_NM[3] = vocabulary.AMBIGUOUS
    scores_NM[2, 30:] = 1e6  # what is behind a sequence counts for nothing
    found, regions_R3, _ = motifs.find_motifs(bases_NM, is_positive_N, scores_NM, MotifSettings())
    assert found[0].consensus == MOTIF
    assert (regions_R3[regions_R3[:, 0] == 2, 2] <= 30).all()


def test_regions_are_the_stretches_above_mean_plus_deviation():
    scores_NM = np.zeros((3, 40))
    scores_NM[0, 10:16] = 1.0
    scores_NM[0, 30:32] = 1.0  # too short
    scores_NM[1, 0:5] = 1.0
    scores_NM[1, 36:40] = 1.0
    found = enrichment.high_regions(scores_NM, np.array([40, 40, 40]), MotifSettings())
    assert found.tolist() == [[0, 10, 16], [1, 0, 5], [1, 36, 40]]  # nothing in a flat sequence


def test_of_a_long_region_the_best_part_is_kept():
    scores_NM = np.zeros((1, 100))
    scores_NM[0, 20:50] = 1.0
    scores_NM[0, 30:40] = 2.0
    settings = MotifSettings(max_region=10, num_sd=0.5)
    assert enrichment.high_regions(scores_NM, np.array([100]), settings).tolist() == [[0, 30, 40]]


def test_kmer_starts_lie_within_regions_and_short_regions_are_widened():
    regions = np.array([[0, 4, 12], [1, 0, 4], [1, 16, 20], [2, 3, 7]])
    inside = enrichment.starts_in_regions(regions, np.array([20, 20, 8]), 15, 6)
    assert np.flatnonzero(inside[0]).tolist() == [4, 5, 6]
    assert np.flatnonzero(inside[1]).tolist() == [0, 14]
    assert np.flatnonzero(inside[2]).tolist() == [2]


def test_the_tests_are_fishers_and_benjamini_hochbergs_over_sequences_not_occurrences():
    rng = np.random.default_rng(0)
    bases_NM = rng.integers(0, 4, (60, 50)).astype(np.uint8)
    bases_NM[rng.random((60, 50)) < 0.02] = vocabulary.AMBIGUOUS
    is_positive_N = rng.random(60) < 0.4
    settings = MotifSettings(width=4, min_share=0.05)
    codes_NS = enrichment.kmer_codes(bases_NM, 4)
    inside_NS = rng.random(codes_NS.shape) < 0.3
    found = enrichment.enrich(codes_NS, inside_NS, is_positive_N, settings)
    kmers = vocabulary.kmers(4)
    texts = [vocabulary.decode(row) for row in bases_NM]
    p_of = {}
    for code, positives, negatives, odds, p in zip(
        found.codes_K, found.positives_K, found.negatives_K, found.odds_ratio_K, found.p_K,
        strict=True,
    ):  # fmt: skip
        holds = np.array([kmers[code] in text for text in texts])
        assert positives == (holds & is_positive_N).sum()
        assert negatives == (holds & ~is_positive_N).sum()
        counts = [
            [positives, is_positive_N.sum() - positives],
            [negatives, (~is_positive_N).sum() - negatives],
        ]
        expected = stats.fisher_exact(counts, alternative="greater").pvalue
        assert p == pytest.approx(expected, rel=1e-9)
        (a, b), (c, d) = np.array(counts) + 0.5
        assert odds == pytest.approx(a * d / (b * c))
        p_of[kmers[code]] = p
    # The candidates: in the regions of at least 3 (5 % of 60) sequences, whatever their label.
    candidates = {
        kmer
        for code, kmer in enumerate(kmers)
        if ((codes_NS == code) & inside_NS).any(axis=1).sum() >= 3
    }
    assert set(p_of) == candidates
    assert (np.diff(found.p_K) >= 0).all()
    # Benjamini-Hochberg by its definition: the least p_j * K / j over all j >= i.
    ranks = np.arange(1, len(found.p_K) + 1)
    by_hand = np.minimum.accumulate((found.p_K * len(ranks) / ranks)[::-1])[::-1]
    np.testing.assert_allclose(found.q_K, np.minimum(by_hand, 1), rtol=1e-12)


@pytest.mark.parametrize(
    ("kmer", "other", "shift"),
    [
        ("TATAAA", "TATAAA", 0),
        ("TATAAA", "TATATA", 0),
        ("TATAAA", "ATAAAA", 1),
        ("TATAAA", "CTATAA", -1),
        ("TATAAA", "TAAAGC", 2),
        ("TATAAA", "GCTATA", -2),
        ("TATAAA", "AAAGCC", None),  # three bases on
        ("TATAAA", "TCTACA", None),  # two mismatches
        ("TATAAA", "ATACAA", None),  # shifted, with a mismatch
    ],
)
def test_kmers_align_without_gaps(kmer, other, shift):
    assert motifs.shift_of(kmer, other) == shift
    if shift is not None:
        assert motifs.shift_of(other, kmer) == -shift


def test_kmers_join_the_first_group_that_they_align_with():
    kmers = ["TATAAA", "GGCCAA", "ATAAAA", "TATACA", "TAAAAG", "GCCAAT", "CCCCCC"]
    groups = motifs.merge(kmers)
    assert groups == [[(0, 0), (2, 1), (3, 0), (4, 2)], [(1, 0), (5, 1)], [(6, 0)]]


def test_a_run_of_one_letter_does_not_grow_a_group_without_end():
    """Each k-mer is one base on from the last; at most one width from the first joins."""
    text = "ACGTTGCATGCCATAGGATC"
    kmers = [text[start : start + 6] for start in range(len(text) - 5)]
    offsets = [offset for _, offset in motifs.merge(kmers)[0]]
    assert offsets == list(range(7))


def test_bases_around_sites_are_counted_and_what_lies_outside_is_not():
    bases_NM = np.stack([vocabulary.encode("ATCGAT"), vocabulary.encode("GGCANT")])
    counts = motifs.count_bases(bases_NM, np.array([[0, 2], [1, 2], [1, 5]]), -1, 2)
    # columns A, T, C, G; sites start at C of row 0, C of row 1, T of row 1 (N before it)
    assert counts.tolist() == [[0, 1, 0, 1], [0, 1, 2, 0], [1, 0, 0, 1]]


def test_frequencies_information_and_consensus_follow_their_definitions():
    background = np.full(4, 0.25)
    counts = np.array([[7, 0, 0, 0], [0, 3, 3, 1], [2, 2, 2, 1], [4, 0, 0, 3]])  # A, T, C, G
    shares = motifs.frequencies(counts, background)
    np.testing.assert_allclose(shares[0], [7.25 / 8, 0.25 / 8, 0.25 / 8, 0.25 / 8])
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    even = np.array([[1, 1e-12, 1e-12, 1e-12], [0.5, 0.5, 1e-12, 1e-12], [0.25] * 4])
    np.testing.assert_allclose(motifs.information(even, background), [2, 1, 0], atol=1e-9)
    assert motifs.consensus(shares) == "AYNR"


def test_meme_format_holds_every_motif_in_the_order_acgt(tmp_path):
    bases_NM, is_positive_N, scores_NM = planted()
    found, _, tests = motifs.find_motifs(bases_NM, is_positive_N, scores_NM, MotifSettings())
    match = known_motifs.Match(known_motifs.KnownMotif("MA0108.3", "TBP", np.eye(4)), 1e-6, 1e-3)
    found[0].match = match
    motif_report.write_meme(found, len(tests.p_K), bases_NM, tmp_path / "m.meme")
    lines = (tmp_path / "m.meme").read_text().splitlines()
    assert lines[0] == "MEME version 4" and "ALPHABET= ACGT" in lines
    background = lines[lines.index("Background letter frequencies") + 1].split()
    assert background[::2] == list("ACGT")
    assert sum(map(float, background[1::2])) == pytest.approx(1, abs=1e-5)  # six decimals
    at = next(i for i, line in enumerate(lines) if line.startswith("letter-probability"))
    assert lines[at - 1] == f"MOTIF 1_{MOTIF} TBP"
    assert lines[at].startswith("letter-probability matrix: alength= 4 w= 8 nsites= ")
    e_value = float(lines[at].rpartition("E= ")[2])
    assert e_value == pytest.approx(tests.p_K[0] * len(tests.p_K), rel=0.01) and e_value > 0
    matrix = np.array([line.split() for line in lines[at + 1 : at + 9]], float)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-5)
    assert "".join("ACGT"[column] for column in matrix.argmax(axis=1)) == MOTIF


def test_positions_of_a_map_begin_with_0_and_are_those_of_its_letters():
    axes, norm = Figure().subplots(), TwoSlopeNorm(0, -1, 1)
    bases_P = vocabulary.encode("ACGTACGTACGTACGT")
    motif_figures._plot_cells(axes, np.zeros((16, 4)), bases_P, 80, 80, norm)
    letters = {text.get_position()[0]: text.get_text() for text in axes.texts}
    assert letters == dict(enumerate("ACGTACGTACGTACGT", 80))
    assert axes.get_xticks().tolist() == [80, 90]


def test_logo_and_map_are_plotted_for_every_shape(tmp_path):
    bases_NM, is_positive_N, scores_NM = planted()
    found, _, _ = motifs.find_motifs(bases_NM, is_positive_N, scores_NM, MotifSettings())
    motif_figures.plot_logo(found[0], tmp_path / "logo.png")
    for length in (1, 40, 130):
        bases_M = np.resize(bases_NM[0], length).copy()
        bases_M[0] = vocabulary.AMBIGUOUS
        change_M4 = np.zeros((length, 4), np.float32)
        motif_figures.plot_mutagenesis(change_M4, bases_M, "a map", tmp_path / f"{length}.png")
    for path in tmp_path.iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")
