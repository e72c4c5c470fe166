"""The synthetic genome follows the chain of the counts."""

import numpy as np
import pytest

from cmgems_jax.config import Config, DataConfig
from cmgems_jax.errors import InputError
from cmgems_jax.genome import files as genome_files
from cmgems_jax.genome import vocabulary
from cmgems_jax.pmi import table as pmi_table
from cmgems_jax.windows import dataset, synthetic_genome


def random_counts(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 1_000, 4**6)


def count_6mers(contigs: np.ndarray) -> np.ndarray:
    codes = np.concatenate([vocabulary.tokenize(row, 6) for row in contigs])
    return np.bincount(codes - vocabulary.NUM_SPECIAL, minlength=4**6)


def test_transition_by_hand():
    counts = np.zeros(4**6, np.int64)
    counts[vocabulary.kmer_code("ACGTAT")] = 3
    counts[vocabulary.kmer_code("ACGTAG")] = 1
    probability_SB = synthetic_genome.transition(counts)
    state = vocabulary.kmer_code("ACGTA")
    assert probability_SB[state].tolist() == [0, 0.75, 0, 0.25]  # A T C G
    assert np.all(np.delete(probability_SB, state, axis=0) == 0.25)


def test_stationary_is_left_unchanged_by_the_chain():
    """Against the full 1024 x 1024 matrix."""
    probability_SB = synthetic_genome.transition(random_counts())
    matrix_SS = np.zeros((1_024, 1_024))
    for state in range(1_024):
        for base in range(4):
            matrix_SS[state, state * 4 % 1_024 + base] += probability_SB[state, base]
    share_S = synthetic_genome.stationary(probability_SB)
    assert abs(share_S.sum() - 1) < 1e-12  # rounding of 1,024 sums
    assert np.abs(share_S @ matrix_SS - share_S).max() < 1e-12


@pytest.mark.parametrize("source", ["random", "grch38"])
def test_drawn_6mers_follow_the_transition_law(source):
    """Given the 5-mer before it, every base: chi-square within 5 standard deviations."""
    counts = random_counts() if source == "random" else pmi_table.grch38_counts()
    contigs = synthetic_genome.sample_contigs(counts, 128, 8_000, np.random.default_rng(1))
    found_SB = count_6mers(contigs).reshape(-1, 4)
    expected_SB = found_SB.sum(axis=1, keepdims=True) * synthetic_genome.transition(counts)
    common_S = expected_SB.min(axis=1) >= 5  # where chi-square holds
    assert common_S.sum() > 900
    cells = (found_SB - expected_SB)[common_S] ** 2 / expected_SB[common_S]
    degrees = 3 * common_S.sum()
    assert abs(cells.sum() - degrees) < 5 * np.sqrt(2 * degrees)


def test_the_start_is_stationary():
    """The first five bases are distributed as any five: chi-square within 5 sd."""
    counts = random_counts()
    contigs = synthetic_genome.sample_contigs(counts, 40_000, 5, np.random.default_rng(2))
    codes = vocabulary.tokenize(contigs, 5)[:, 0] - vocabulary.NUM_SPECIAL
    found_S = np.bincount(codes, minlength=1_024)
    expected_S = 40_000 * synthetic_genome.stationary(synthetic_genome.transition(counts))
    statistic = ((found_S - expected_S) ** 2 / expected_S).sum()
    assert abs(statistic - 1_023) < 5 * np.sqrt(2 * 1_023)


def test_a_chain_that_cannot_branch_is_followed_exactly():
    """After 5 bases comes the base 5 back: the contig has period 5."""
    counts = np.zeros((1_024, 4), np.int64)
    counts[np.arange(1_024), np.arange(1_024) >> 8] = 1
    contigs = synthetic_genome.sample_contigs(counts.ravel(), 6, 2_500, np.random.default_rng(0))
    assert contigs.shape == (6, 2_500) and contigs.dtype == np.uint8
    assert np.array_equal(contigs[:, 5:], contigs[:, :-5])


@pytest.mark.parametrize("num_bases", [1, 4, 5, 6])
def test_a_short_contig_has_its_length(num_bases):
    contigs = synthetic_genome.sample_contigs(
        random_counts(), 3, num_bases, np.random.default_rng(0)
    )
    assert contigs.shape == (3, num_bases) and contigs.max() < 4


def test_the_genome_is_the_same_for_a_seed_and_left_alone_the_second_time(tmp_path):
    first, second, other = (tmp_path / name for name in ("a.fa", "b.fa", "c.fa"))
    synthetic_genome.write_genome(first, 30_007, seed=1)
    synthetic_genome.write_genome(second, 30_007, seed=1)
    synthetic_genome.write_genome(other, 30_007, seed=2)
    assert first.read_bytes() == second.read_bytes() != other.read_bytes()
    before = first.stat().st_mtime_ns
    synthetic_genome.write_genome(first, 30_007, seed=1)
    assert first.stat().st_mtime_ns == before
    synthetic_genome.write_genome(first, 30_007, seed=2)
    assert first.read_bytes() == other.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.fa", "b.fa", "c.fa"]


@pytest.mark.parametrize("num_bases", [2, 500, 30_007])
def test_the_file_has_all_bases_in_two_or_more_contigs(tmp_path, num_bases):
    path = tmp_path / "deeper" / "genome.fa"
    synthetic_genome.write_genome(path, num_bases, seed=0)
    lines = path.read_text().splitlines()
    assert max(len(line) for line in lines if line[0] != ">") <= 80
    lengths = [len(contig.bases) for contig in genome_files.read_contigs([str(path)])]
    assert len(lengths) == max(2, num_bases // 10_000) and sum(lengths) == num_bases
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_copies_of_the_repeat_make_up_the_share_that_is_asked_for(tmp_path, monkeypatch, share):
    """All their bases are the repeat's here, so that each can be found by its 20-mers."""
    monkeypatch.setattr(synthetic_genome, "DIVERGED", 0.0)
    synthetic_genome.write_genome(tmp_path / "x.fa", 200_000, seed=1, repeats=share)
    repeat = vocabulary.decode(synthetic_genome.repeat())
    known = {repeat[start : start + 20] for start in range(len(repeat) - 19)}
    covered = total = 0
    for contig in genome_files.read_contigs([str(tmp_path / "x.fa")]):
        text, is_copied_M = vocabulary.decode(contig.bases), np.zeros(len(contig.bases), bool)
        for start in range(len(text) - 19):
            if text[start : start + 20] in known:
                is_copied_M[start : start + 20] = True
        covered, total = covered + is_copied_M.sum(), total + len(text)
    assert covered / total == pytest.approx(share, abs=0.02)


def test_copies_differ_from_the_repeat_in_one_base_of_nine():
    """15 % are any base, of which a quarter are the repeat's by chance."""
    rng = np.random.default_rng(0)
    whole = synthetic_genome.REPEAT_BASES
    differing = [
        (synthetic_genome.repeat_copy(whole, rng) != synthetic_genome.repeat()).mean()
        for _ in range(50)
    ]
    assert np.mean(differing) == pytest.approx(0.75 * 0.15, abs=0.01)


def test_another_share_of_repeats_is_another_data_set(tmp_path):
    def config(repeats: float) -> Config:
        data = DataConfig(synthetic_bases=20_000, synthetic_repeats=repeats, num_tokens=16)
        return Config(data=data)

    folder = dataset.prepare(config(0), tmp_path / "data")
    with pytest.raises(InputError, match="contents of the input files"):
        dataset.prepare(config(0.25), folder)
    other = dataset.prepare(config(0.25), tmp_path / "other")
    assert dataset.prepare(config(0.25), other) == other
    with pytest.raises(InputError, match="contents of the input files"):
        dataset.prepare(config(0), other)
