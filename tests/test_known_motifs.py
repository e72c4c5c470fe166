"""TOMTOM against its definition, and JASPAR's motifs by their names."""

import itertools

import numpy as np
import pytest
from scipy import stats

from cmgems_jax import known_motifs
from cmgems_jax.errors import InputError
from cmgems_jax.genome import vocabulary
from cmgems_jax.known_motifs import Comparison, KnownMotif

COMPLEMENT = [1, 0, 3, 2]  # of A, T, C, G


@pytest.fixture(scope="module")
def vertebrates() -> Comparison:
    return known_motifs.comparison("vertebrates")


def random_motif(rng: np.random.Generator, width: int) -> np.ndarray:
    """Returns frequencies (W, 4), some columns near one base, some even."""
    return rng.dirichlet([0.4] * 4, width)


def slow_p_values(query_I4: np.ndarray, motifs: list[np.ndarray]) -> np.ndarray:
    """TOMTOM from its definition: every combination of known columns is listed."""
    strands = [*motifs, *(motif[::-1, COMPLEMENT] for motif in motifs)]
    columns = np.concatenate(strands)
    scores = [-np.sqrt(((columns - column) ** 2).sum(axis=1)) for column in query_I4]
    scores = [score - np.median(score) for score in scores]
    scale = 100 / (max(map(np.max, scores)) - min(map(np.min, scores)))
    scores = [np.rint(score * scale) for score in scores]
    ends = np.cumsum([len(strand) for strand in strands])
    p_values = []
    for strand, end in zip(strands, ends, strict=True):
        own = [score[end - len(strand) : end] for score in scores]
        overlaps = [
            [(i, i + shift) for i in range(len(query_I4)) if 0 <= i + shift < len(strand)]
            for shift in range(1 - len(query_I4), len(strand))
        ]
        best = max(sum(own[i][j] for i, j in overlap) for overlap in overlaps)
        none = 1.0
        for overlap in overlaps:
            sums = np.array([sum(x) for x in itertools.product(*(scores[i] for i, _ in overlap))])
            none *= (sums < best).mean()
        p_values.append(1 - none)
    better = np.minimum(*np.split(np.array(p_values), 2))
    return 1 - (1 - better) ** 2


def test_p_values_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    motifs = [random_motif(rng, width) for width in (2, 3, 3, 5)]
    comparison = Comparison([KnownMotif(f"M{i}", f"m{i}", one) for i, one in enumerate(motifs)])
    for query_I4 in (random_motif(rng, 3), motifs[2], motifs[3][1:4][::-1, COMPLEMENT]):
        expected = slow_p_values(query_I4, motifs)
        np.testing.assert_allclose(comparison.p_values(query_I4), expected, rtol=1e-6)
        match = comparison.best(query_I4)
        assert match.motif.name == f"m{expected.argmin()}"
        assert match.p == pytest.approx(expected.min())
        assert match.q == pytest.approx(stats.false_discovery_control(expected).min())


def test_a_motif_of_chance_has_an_even_p_value(vertebrates):
    """Queries of columns of known motifs in random order: 1 in 20 below .05."""
    rng = np.random.default_rng(0)
    columns = np.concatenate([motif.frequencies_W4 for motif in vertebrates.motifs])
    p_NT = [vertebrates.p_values(columns[rng.integers(0, len(columns), 8)]) for _ in range(30)]
    assert 0.035 < (np.array(p_NT) < 0.05).mean() < 0.065  # 30,000 that hang together


def test_jaspars_own_motifs_get_their_names_from_either_strand(vertebrates):
    by_name = {motif.name: motif for motif in vertebrates.motifs}
    assert len(vertebrates.motifs) == len({motif.id for motif in vertebrates.motifs}) > 900
    tbp = by_name["TBP"]
    assert tbp.id == "MA0108.3"  # its counts begin T 309 of 389, A 352 of 389
    np.testing.assert_allclose(tbp.frequencies_W4[0, 1], 309.25 / 390)
    np.testing.assert_allclose(tbp.frequencies_W4[1, 0], 352.25 / 390)
    for name in ("TBP", "CTCF", "GATA1"):
        frequencies_W4 = by_name[name].frequencies_W4
        for query in (frequencies_W4, frequencies_W4[::-1, COMPLEMENT]):
            match = vertebrates.best(query)
            assert match.is_significant and match.motif.id == by_name[name].id
            assert str(match).startswith(f"like {name} ({match.motif.id}, q = ")


def test_a_kmer_is_like_a_motif_that_holds_it_and_mostly_like_none(vertebrates):
    ebox = vertebrates.best(known_motifs.kmer_frequencies("CACGTG"))
    assert ebox.is_significant and ebox.motif.name in ("Mlxip", "USF2", "HES7", "BHLHE41", "MYC")
    other = vertebrates.best(known_motifs.kmer_frequencies("CATCTA"))
    assert not other.is_significant
    assert str(other).startswith("like no known motif; nearest ")
    assert known_motifs.comparison(known_motifs.NONE) is None


def test_without_the_tables_the_message_names_the_package(monkeypatch):
    monkeypatch.setattr(known_motifs.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install pyjaspar"):
        known_motifs.read.__wrapped__("vertebrates")


def test_a_kmer_as_a_motif_has_its_bases():
    np.testing.assert_array_equal(
        known_motifs.kmer_frequencies("GAT").argmax(axis=1), vocabulary.encode("GAT")
    )
