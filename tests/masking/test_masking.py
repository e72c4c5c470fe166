"""Masking against a slow plain-Python implementation (exactly), by hand, and in its statistics."""

import functools
import itertools
import math
import random as python_random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmgems_jax.masking import corruption, ranking, strategies
from tests.masking import slow_masking as slow

STRIDE_ONE = [(3, 1, 70), (4, 1, 70), (6, 1, 70)]
STRIDED = [(3, 3, 70), (5, 2, 70), (6, 2, 70), (7, 5, 70)]
SHORTER_THAN_A_SPAN = [(6, 1, 1), (6, 1, 5), (7, 2, 3)]
GEOMETRIES = STRIDE_ONE + STRIDED + SHORTER_THAN_A_SPAN  # k, stride, positions
STRATEGIES = ["random", "genemask", "global"]
CENTER_DENSITIES = [0.0, 0.02, 0.1, 0.3, 0.6, 1.0]


@functools.cache
def batched(function, in_axes=0, **static):
    """Returns the function jitted over a leading axis of cases; one compilation a shape."""
    return jax.jit(jax.vmap(functools.partial(function, **static), in_axes=in_axes))


def letters(rng, num_bases):
    """Returns DNA: random bases, tandem repeats among them, or a single repeat; some with Ns."""
    chosen = rng.choice(list("ATCG"), num_bases)
    for start in range(0, num_bases, 24):
        if rng.random() < 0.4:
            unit = rng.choice(list("ATCG"), int(rng.integers(1, 7)))
            chosen[start : start + 20] = np.resize(unit, 20)[: max(0, num_bases - start)]
    if rng.random() < 0.2:
        chosen = np.resize(chosen[: int(rng.integers(1, 4))], num_bases)
    if rng.random() < 0.5:
        for start in rng.integers(0, num_bases, 1 + num_bases // 40):
            chosen[start : start + int(rng.integers(1, 4))] = "N"
    return "".join(chosen)


def sequence_ids(rng, k, stride, length):
    """Returns `length` ids: [CLS] k-mers [SEP] padding, or k-mers from end to end."""
    bare = length < 4 or rng.random() < 0.3
    most = length if bare else length - 2
    num_tokens = most if bare or rng.random() < 0.5 else int(rng.integers(1, most + 1))
    ids = slow.tokenize(letters(rng, (num_tokens - 1) * stride + k), k, stride)
    if not bare:
        ids = [slow.CLS, *ids, slow.SEP]
    return ids + [slow.PAD] * (length - len(ids))


def make_cases(k, stride, length, num_cases=48, seed=0):
    """Returns host arrays of sequences, centers (none to all), ranks (some with many ties), m."""
    rng = np.random.default_rng([seed, k, stride, length])
    ids, eligible, centers, rank, num_centers = [], [], [], [], []
    for case in range(num_cases):
        ids.append(sequence_ids(rng, k, stride, length))
        eligible.append([token >= slow.NUM_SPECIAL for token in ids[-1]])
        density = CENTER_DENSITIES[case % len(CENTER_DENSITIES)]
        centers.append(np.array(eligible[-1]) & (rng.random(length) < density))
        ranks = (rng.permutation(4**k) // (1, 1, 4**k // 5)[case % 3] + 1).tolist()
        rank.append(slow.token_ranks(ids[-1], ranks, eligible[-1], ranking.INELIGIBLE_RANK))
        num_centers.append((0, 1, 2, 3, 6, 12, length, 3 * length)[case % 8])
    return {
        "ids": np.array(ids, np.int32),
        "eligible": np.array(eligible, bool),
        "centers": np.array(centers, bool),
        "rank": np.array(rank, np.int32),
        "num_centers": np.array(num_centers, np.int32),
    }


def assert_equal_cases(found, expected):
    """Every case of two batches is equal; the message names the first one that is not."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    for case, (found_L, expected_L) in enumerate(zip(found, expected, strict=True)):
        np.testing.assert_array_equal(found_L, expected_L, err_msg=f"case {case}")


def plain(cases, *names):
    """Yields the cases as tuples of plain Python values."""
    return zip(*(cases[name].tolist() for name in names), strict=True)


# Window sizes and rates, by hand.


@pytest.mark.parametrize(
    ("k", "stride", "offsets"),
    [
        (3, 1, (-1, 0, 1)),
        (4, 1, (-1, 0, 1, 2)),
        (5, 1, (-2, -1, 0, 1, 2)),
        (6, 1, (-2, -1, 0, 1, 2, 3)),
        (7, 1, (-3, -2, -1, 0, 1, 2, 3)),
        (6, 2, (-1, 0, 1)),
        (6, 4, (0, 1)),
        (7, 2, (-1, 0, 1, 2)),
        (6, 6, (0,)),
        (3, 3, (0,)),
    ],
)
def test_window_offsets_are_dnaberts_and_shrink_with_the_stride(k, stride, offsets):
    assert strategies.window_offsets(k, stride) == offsets


@pytest.mark.parametrize(
    ("strategy", "k", "stride", "expected"),
    [
        ("random", 6, 1, 6),
        ("genemask", 6, 1, 8.5),
        ("global", 6, 1, 11),
        ("random", 3, 1, 3),
        ("genemask", 3, 1, 4),
        ("global", 3, 1, 5),
        ("random", 6, 4, 2),
        ("genemask", 6, 4, 2.5),
        ("global", 6, 4, 3),
        ("random", 6, 6, 1),
        ("genemask", 6, 6, 1),
        ("global", 6, 6, 1),
    ],
)
def test_tokens_per_center_are_those_of_the_specifications_table(strategy, k, stride, expected):
    assert strategies.tokens_per_center(strategy, k, stride) == expected
    rate = strategies.center_rate(strategy, 0.15, k, stride)
    assert float(rate) == pytest.approx(0.15 / expected, rel=1e-6)  # float32 at the least


def test_center_rates_of_6mers_are_the_published_ones():
    """Four decimals, as the specification prints them."""
    rates = [round(float(strategies.center_rate(name, 0.15, 6)), 4) for name in STRATEGIES]
    assert rates == [0.025, 0.0176, 0.0136]


# Selection, against the slow implementation.


@pytest.mark.parametrize(("k", "stride", "length"), GEOMETRIES)
def test_random_equals_the_slow_version(k, stride, length):
    cases = make_cases(k, stride, length)
    found = batched(strategies.random, k=k, stride=stride)(cases["centers"], cases["eligible"])
    expected = [
        slow.random(*case, k=k, stride=stride) for case in plain(cases, "centers", "eligible")
    ]
    assert found.dtype == bool
    assert_equal_cases(found, expected)


@pytest.mark.parametrize(("k", "stride", "length"), GEOMETRIES)
def test_genemask_equals_the_slow_version(k, stride, length):
    cases = make_cases(k, stride, length)
    names = ("centers", "eligible", "rank")
    found = batched(strategies.genemask, k=k, stride=stride)(*(cases[name] for name in names))
    expected = [slow.genemask(*case, k=k, stride=stride) for case in plain(cases, *names)]
    assert found.dtype == bool
    assert_equal_cases(found, expected)


@pytest.mark.parametrize(("k", "stride", "length"), GEOMETRIES)
def test_global_equals_the_slow_version(k, stride, length):
    cases = make_cases(k, stride, length)
    names = ("num_centers", "eligible", "rank")
    found = batched(strategies.global_top, k=k, stride=stride)(*(cases[name] for name in names))
    expected = [slow.global_top(*case, k=k, stride=stride) for case in plain(cases, *names)]
    assert found.dtype == bool
    assert_equal_cases(found, expected)


@pytest.mark.parametrize("min_distance", [1, 2, 11, 500])
@pytest.mark.parametrize(("k", "stride"), [(6, 1), (3, 3)])
def test_global_with_a_least_distance_equals_the_slow_version(k, stride, min_distance):
    cases = make_cases(k, stride, 70)
    names = ("num_centers", "eligible", "rank")
    options = {"k": k, "stride": stride, "min_distance": min_distance}
    found = batched(strategies.global_top, **options)(*(cases[name] for name in names))
    expected = [slow.global_top(*case, **options) for case in plain(cases, *names)]
    assert_equal_cases(found, expected)


@pytest.mark.parametrize("min_distance", [0, 4])
def test_selection_is_exact_for_full_windows_and_the_largest_vocabulary(min_distance):
    """Ranks of 65,535 and 65,536 at 1,500 positions: a float32 or 24-bit key would mix them."""
    rng = np.random.default_rng(0)
    k, length, num_cases = 8, 1500, 6
    eligible = rng.random((num_cases, length)) < 0.99
    rank = np.where(eligible, rng.integers(4**k - 1, 4**k + 1, (num_cases, length)), 0)
    rank = np.where(eligible, rank, ranking.INELIGIBLE_RANK).astype(np.int32)
    num_centers = np.array([1, 7, 20, 100, 700, 800], np.int32)
    options = {"k": k, "min_distance": min_distance}
    found = batched(strategies.global_top, **options)(num_centers, eligible, rank)
    arguments = list(zip(num_centers.tolist(), eligible.tolist(), rank.tolist(), strict=True))
    assert_equal_cases(found, [slow.global_top(*case, **options) for case in arguments])
    centers = eligible & (rng.random((num_cases, length)) < 0.02)
    found = batched(strategies.genemask, k=k)(centers, eligible, rank)
    arguments = zip(centers.tolist(), eligible.tolist(), rank.tolist(), strict=True)
    assert_equal_cases(found, [slow.genemask(*case, k=k) for case in arguments])


@pytest.mark.parametrize("k", [3, 6])
def test_ranks_are_looked_up_by_the_token_and_ineligible_ones_come_last(k):
    cases = make_cases(k, 1, 70)
    ranks = np.random.default_rng(k).permutation(4**k).astype(np.int32) + 1
    look_up = batched(ranking.token_ranks, in_axes=(0, None, 0))
    found = look_up(cases["ids"], ranks, cases["eligible"])
    expected = [
        slow.token_ranks(ids, ranks.tolist(), eligible, ranking.INELIGIBLE_RANK)
        for ids, eligible in plain(cases, "ids", "eligible")
    ]
    assert found.dtype == jnp.int32
    assert_equal_cases(found, expected)
    assert ranking.INELIGIBLE_RANK > 4**8


@pytest.mark.parametrize("max_predictions", [0, 1, 7, 69, 70, 100])
def test_keep_first_keeps_the_first_masked_positions(max_predictions):
    cases = make_cases(6, 1, 70)
    keep = batched(strategies.keep_first, max_predictions=max_predictions)
    expected = [slow.keep_first(*case, max_predictions) for case in plain(cases, "centers")]
    assert_equal_cases(keep(cases["centers"]), expected)


# Selection, by hand.


def positions(masked_L):
    """Returns the masked positions."""
    return np.flatnonzero(np.asarray(masked_L)).tolist()


def at(length, *chosen):
    """Returns bool (length,), True at `chosen`."""
    flags = np.zeros(length, bool)
    flags[list(chosen)] = True
    return jnp.asarray(flags)


def test_spans_are_cut_at_the_ends_not_wrapped():
    eligible_L = jnp.ones(40, bool)
    rank_L = jnp.arange(1, 41, dtype=jnp.int32)
    assert positions(strategies.random(at(40, 0), eligible_L, k=6)) == [0, 1, 2, 3]
    assert positions(strategies.random(at(40, 39), eligible_L, k=6)) == [37, 38, 39]
    assert positions(strategies.global_top(1, eligible_L, rank_L, k=6)) == [0, 1, 2, 3, 4, 5]
    last = positions(strategies.global_top(1, eligible_L, rank_L[::-1], k=6))
    assert last == [34, 35, 36, 37, 38, 39]


def test_one_center_masks_6_or_11_tokens_of_6mers():
    eligible_L = jnp.ones(40, bool)
    rank_L = jnp.full(40, 100, jnp.int32).at[20].set(3)
    assert positions(strategies.random(at(40, 20), eligible_L, k=6)) == list(range(18, 24))
    assert positions(strategies.global_top(1, eligible_L, rank_L, k=6)) == list(range(15, 26))


def test_ineligible_positions_inside_a_span_stay_unmasked():
    eligible_L = ~at(40, 17, 22)
    rank_L = jnp.where(eligible_L, 100, ranking.INELIGIBLE_RANK).astype(jnp.int32).at[20].set(3)
    expected = [15, 16, 18, 19, 20, 21, 23, 24, 25]
    assert positions(strategies.global_top(1, eligible_L, rank_L, k=6)) == expected


@pytest.mark.parametrize(
    ("ranks", "best"),
    [
        ({}, 20),  # all equal: the center
        ({18: 5, 23: 5}, 18),  # equal and better than the center: the first offset
        ({18: 5, 23: 4}, 23),
        ({17: 1, 24: 1}, 20),  # outside the window -2..3
    ],
)
def test_genemask_spreads_about_the_best_token_of_the_window(ranks, best):
    rank_L = np.full(40, 100, np.int32)
    for position, rank in ranks.items():
        rank_L[position] = rank
    masked_L = strategies.genemask(at(40, 20), jnp.ones(40, bool), jnp.asarray(rank_L), k=6)
    expected = set(range(18, 24)) | set(range(best - 5, best + 6))
    assert positions(masked_L) == sorted(expected)


@pytest.mark.parametrize(
    ("num_centers", "num_masked"),
    [
        (1, 11),
        (8, 8 * 11),  # ceil(8/2) = 4 < 5: all
        (9, 5 * 11 + 4 * 6),
        (10, 5 * 11 + 5 * 6),
        (11, 6 * 11 + 5 * 6),
    ],
)
def test_genemask_spreads_the_better_half_or_all_of_few(num_centers, num_masked):
    """Every center is its window's best, and far from the others: 11 tokens or 6."""
    chosen = list(range(10, 10 + 20 * num_centers, 20))
    rank_L = np.full(240, 1000, np.int32)
    rank_L[chosen] = np.arange(num_centers)[::-1] + 1
    masked_L = strategies.genemask(at(240, *chosen), jnp.ones(240, bool), jnp.asarray(rank_L), k=6)
    assert len(positions(masked_L)) == num_masked
    assert bool(masked_L[chosen[-1] - 5])  # the best-ranked center is among the kept


# Draws.


def example(k=6, length=512, seed=3):
    """Returns ids (L,) of a random sequence with [CLS], [SEP] and a few [UNK], and ranks (V,)."""
    rng = np.random.default_rng([seed, k])
    bases = rng.choice(list("ATCG"), length - 12 + k - 1)
    bases[100] = "N"
    ids = [slow.CLS, *slow.tokenize("".join(bases), k), slow.SEP]
    ids += [slow.PAD] * (length - len(ids))
    return np.array(ids, np.int32), rng.permutation(4**k).astype(np.int32) + 1


def draw_many(ids_L, ranks_V, num_keys, seed=0, **options):
    """Returns bool (num_keys, L): one sequence masked with many keys."""
    keys = jax.random.split(jax.random.key(seed), num_keys)
    many = batched(strategies.sample_mask, in_axes=(0, None, None), **options)
    return np.asarray(many(keys, ids_L, ranks_V))


@functools.cache
def slow_shares(strategy, k, num_draws=500):
    """Returns the masked share of eligible tokens in draws of the slow implementation."""
    ids_L, ranks_V = example(k)
    ids = ids_L.tolist()
    eligible = [token >= slow.NUM_SPECIAL for token in ids]
    rank = slow.token_ranks(ids, ranks_V.tolist(), eligible, 10**6)
    tokens_per_center = {"random": k, "genemask": (3 * k - 1) / 2, "global": 2 * k - 1}[strategy]
    dice = python_random.Random(1)
    shares = []
    for _ in range(num_draws):
        centers = [allowed and dice.random() < 0.15 / tokens_per_center for allowed in eligible]
        if strategy == "random":
            masked = slow.random(centers, eligible, k=k)
        elif strategy == "genemask":
            masked = slow.genemask(centers, eligible, rank, k=k)
        else:
            masked = slow.global_top(sum(centers), eligible, rank, k=k)
        shares.append(sum(masked) / sum(eligible))
    return np.array(shares)


@pytest.mark.parametrize("k", [3, 6])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_realised_share_is_that_of_the_slow_versions_draws(strategy, k):
    """Mean and spread over draws.

    The means differ by less than 5 standard errors of their difference, the
    standard deviations by less than 25 % (5 times their own error of about
    1/sqrt(2*500) = 3 %, and a margin for their skew).
    """
    ids_L, ranks_V = example(k)
    masked = draw_many(ids_L, ranks_V, 1500, strategy=strategy, budget=0.15, k=k)
    shares = masked[:, ids_L >= slow.NUM_SPECIAL].mean(axis=1)
    expected = slow_shares(strategy, k)
    error = np.sqrt(shares.var() / len(shares) + expected.var() / len(expected))
    assert abs(shares.mean() - expected.mean()) < 5 * error
    assert abs(shares.std() / expected.std() - 1) < 0.25
    assert 0.1 < shares.mean() < 0.2  # the budget is 0.15; overlaps and small n move it


def test_the_share_of_random_is_that_of_overlapping_windows():
    """1 - (1 - b/6)**6 = 0.141 for a token that 6 possible centers reach.

    Counted over tokens far from ends and [UNK], within 5 standard errors over
    the independent draws.
    """
    ids_L, ranks_V = example()
    masked = draw_many(ids_L, ranks_V, 2000, strategy="random", budget=0.15, k=6)
    shares = masked[:, 200:490].mean(axis=1)
    error = shares.std() / np.sqrt(len(shares))
    assert abs(shares.mean() - (1 - (1 - 0.025) ** 6)) < 5 * error


@pytest.mark.parametrize("budget", [0.05, 0.15, 0.4])
def test_centers_are_bernoulli_at_every_eligible_token(budget):
    """With stride = k a span is its center: counts by position and in all within 5 binomial sd."""
    ids_L, ranks_V = example()
    eligible_L = ids_L >= slow.NUM_SPECIAL
    num_draws = 2000
    options = {"strategy": "random", "budget": budget, "k": 6, "stride": 6}
    masked = draw_many(ids_L, ranks_V, num_draws, **options)
    assert not masked[:, ~eligible_L].any()
    sd = np.sqrt(budget * (1 - budget))
    counts = masked[:, eligible_L].sum(axis=0)
    assert np.abs(counts - num_draws * budget).max() < 5 * sd * np.sqrt(num_draws)
    num_trials = num_draws * eligible_L.sum()
    assert abs(counts.sum() - num_trials * budget) < 5 * sd * np.sqrt(num_trials)
    per_draw = masked.sum(axis=1)  # its variance is binomial too: 5 times its error of sqrt(2/n)
    binomial_variance = eligible_L.sum() * sd**2
    assert abs(per_draw.var() / binomial_variance - 1) < 5 * np.sqrt(2 / num_draws)


@pytest.mark.parametrize("min_distance", [0, 15])
def test_every_draw_of_global_masks_the_best_tokens_for_some_number_of_centers(min_distance):
    ids_L, ranks_V = example()
    ids = ids_L.tolist()
    eligible = [token >= slow.NUM_SPECIAL for token in ids]
    rank = slow.token_ranks(ids, ranks_V.tolist(), eligible, 10**6)
    possible = {
        tuple(slow.global_top(num_centers, eligible, rank, k=6, min_distance=min_distance))
        for num_centers in range(40)
    }
    options = {"strategy": "global", "budget": 0.15, "k": 6, "min_distance": min_distance}
    masked = draw_many(ids_L, ranks_V, 100, **options)
    assert {tuple(row) for row in masked.tolist()} <= possible
    assert len({tuple(row) for row in masked.tolist()}) > 3


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_draws_never_mask_special_tokens_unknowns_or_padding(strategy):
    cases = make_cases(6, 1, 70)
    ranks_V = np.arange(1, 4**6 + 1, dtype=np.int32)
    keys = jax.random.split(jax.random.key(0), len(cases["ids"]))
    draw = batched(strategies.sample_mask, in_axes=(0, 0, None), strategy=strategy, budget=0.5, k=6)
    masked = np.asarray(draw(keys, cases["ids"], ranks_V))
    assert masked.any()
    assert not (masked & (cases["ids"] < slow.NUM_SPECIAL)).any()


def block_sequence(rng):
    """Returns ids (18, 16) in blocks and ranks: a block's middle is better than all else."""
    blocks = rng.permutation(4**6)[: 18 * 16].reshape(18, 16) + slow.NUM_SPECIAL
    order = rng.permutation(4**6)
    middles = set((blocks[:, 8] - slow.NUM_SPECIAL).tolist())
    order = sorted(order.tolist(), key=lambda code: code not in middles)
    ranks = np.empty(4**6, np.int32)
    ranks[order] = np.arange(1, 4**6 + 1)
    return blocks.astype(np.int32), ranks


@pytest.mark.parametrize("move", ["permute", "rotate", "reverse"])
def test_global_masks_follow_the_content_not_the_position(move):
    """With the blocks moved, the same tokens are masked elsewhere.

    Ranks looked up by position would mask the same positions of every
    sequence. The best 18 tokens are the middles of the blocks, and their spans
    stay inside, so the masks move with the blocks exactly.
    """
    rng = np.random.default_rng(5)
    blocks, ranks_V = block_sequence(rng)
    index = np.arange(18)
    order = {"permute": rng.permutation(18), "rotate": np.roll(index, 5), "reverse": index[::-1]}
    moved = blocks[order[move]]

    def masks_of(blocks):
        ids_L = np.concatenate([[slow.CLS], blocks.ravel(), [slow.SEP]]).astype(np.int32)
        options = {"strategy": "global", "budget": 0.15, "k": 6}
        masked = draw_many(ids_L, ranks_V, 16, seed=11, **options)
        return masked[:, 1:-1].reshape(16, 18, 16)

    masked, masked_moved = masks_of(blocks), masks_of(moved)
    assert masked.any(axis=(1, 2)).sum() >= 8
    np.testing.assert_array_equal(masked_moved, masked[:, order[move]])
    assert (masked_moved != masked).any()


def other_kmers(ids_L):
    """Returns the ids with every k-mer replaced by another one."""
    is_kmer_L = ids_L >= slow.NUM_SPECIAL
    return np.where(is_kmer_L, slow.NUM_SPECIAL + (ids_L * 7 + 3) % 4**6, ids_L).astype(np.int32)


@pytest.mark.parametrize("rule", ["genemask", "global"])
def test_by_position_masks_the_same_places_whatever_stands_there(rule):
    """The released code's defect, as a control; by token the places follow the content."""
    ids_L, ranks_V = example()
    for strategy, is_same in ((f"{rule}_by_position", True), (rule, False)):
        options = {"strategy": strategy, "budget": 0.15, "k": 6}
        masked, of_others = (
            draw_many(x, ranks_V, 8, **options) for x in (ids_L, other_kmers(ids_L))
        )
        assert masked.any()
        assert np.array_equal(masked, of_others) == is_same


def test_by_position_ranks_are_the_tables_entries_in_order():
    ranks_V = np.random.default_rng(0).permutation(4**3).astype(np.int32) + 1
    eligible_L = np.arange(100) % 7 != 0
    found = ranking.position_ranks(jnp.asarray(ranks_V), jnp.asarray(eligible_L))
    expected = [
        ranks_V[place % 64] if place % 7 else ranking.INELIGIBLE_RANK for place in range(100)
    ]
    np.testing.assert_array_equal(found, expected)


def run_lengths(masked_L):
    """Returns the lengths of the maximal runs of True."""
    return [len(list(group)) for is_masked, group in itertools.groupby(masked_L) if is_masked]


def test_random_spans_are_globals_spans_at_random_places():
    """Every run far from the ends is one of 11 tokens or several that overlap."""
    ids_L, ranks_V = (np.full(512, 5, np.int32), np.arange(1, 4**6 + 1, dtype=np.int32))
    masked = draw_many(ids_L, ranks_V, 400, strategy="random_spans", budget=0.15, k=6)
    lengths = [n for row in masked for n in run_lengths(row) if not (row[0] or row[-1])]
    assert min(lengths) == 11 and lengths.count(11) > len(lengths) / 2
    expected = 1 - (1 - 0.15 / 11) ** 11  # of a token that 11 possible centers reach
    shares = masked[:, 20:-20].mean(axis=1)
    assert abs(shares.mean() - expected) < 5 * shares.std() / np.sqrt(len(shares))


@pytest.mark.parametrize("growth", range(strategies.NUM_GROWTHS))
def test_random_mask_grows_its_windows_and_keeps_the_budget(growth):
    """All widths 6, 8, ... up to 6 + 2 * growth occur; the share is that of the mean width."""
    ids_L, ranks_V = (np.full(512, 5, np.int32), np.arange(1, 4**6 + 1, dtype=np.int32))
    options = {"strategy": "random_mask", "budget": 0.02, "k": 6, "growth": growth}
    masked = draw_many(ids_L, ranks_V, 3000, **options)
    alone = [n for row in masked for n in run_lengths(row[20:-20]) if not (row[20] or row[-21])]
    widths = set(range(6, 7 + 2 * growth, 2))
    assert widths <= set(alone) and min(alone) == 6
    among = np.bincount(alone, minlength=20)
    assert sum(among[list(widths)]) > 0.85 * len(alone)  # the rest are windows that overlap
    shares = masked[:, 20:-20].mean(axis=1)
    rate = 0.02 / (6 + growth)
    misses = [(1 - rate / (growth + 1)) ** (6 + 2 * w) for w in range(growth + 1)]
    assert abs(shares.mean() - (1 - np.prod(misses))) < 5 * shares.std() / np.sqrt(len(shares))


def test_top_m_multiplies_the_number_of_globals_tokens():
    """With stride = k a span is its token: Bernoulli counts, within 5 standard errors."""
    ids_L, ranks_V = example()
    num_tokens = (ids_L >= slow.NUM_SPECIAL).sum()
    for top_m in (0.5, 1, 2):
        options = {"strategy": "global", "budget": 0.1, "k": 6, "stride": 6, "top_m": top_m}
        masked = draw_many(ids_L, ranks_V, 500, **options)
        error = np.sqrt(num_tokens * 0.1 * top_m / 500)
        assert abs(masked.sum(axis=1).mean() - 0.1 * top_m * num_tokens) < 5 * error


@pytest.mark.parametrize(
    "strategy, longest, mean",
    [("random", 6, 6), ("global", 11, 11), ("genemask", 11, 8.5), ("random_mask", 14, 10)],
)
def test_the_most_that_is_masked_is_exceeded_in_one_draw_of_a_billion(strategy, longest, mean):
    """A center masks `longest` tokens at most; the tail of their number is summed term by term."""
    num_tokens, rate = 2_000, 0.15 / mean
    num_centers, remainder = divmod(strategies.most_masked(strategy, 0.15, num_tokens, 6), longest)
    assert remainder == 0
    terms = [
        math.comb(num_tokens, n) * rate**n * (1 - rate) ** (num_tokens - n)
        for n in range(num_centers, num_centers + 100)
    ]
    assert sum(terms[1:]) <= 1e-9 < sum(terms)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_budget_may_be_traced(strategy):
    ids_L, ranks_V = (jnp.asarray(values) for values in example())
    options = {"strategy": strategy, "k": 6}

    @jax.jit
    def traced(key, budget):
        return strategies.sample_mask(key, ids_L, ranks_V, budget=budget, **options)

    key = jax.random.key(2)
    none, published, more = (traced(key, jnp.float32(budget)) for budget in (0.0, 0.15, 0.5))
    assert not none.any()
    fixed = jax.jit(functools.partial(strategies.sample_mask, budget=0.15, **options))
    np.testing.assert_array_equal(published, fixed(key, ids_L, ranks_V))
    assert more.sum() > published.sum() > 0


# Corruption.


def corrupt_many(ids_L, masked_L, num_keys, seed=0, **options):
    """Returns int32 (num_keys, L): one masked sequence corrupted with many keys."""
    keys = jax.random.split(jax.random.key(seed), num_keys)
    many = batched(corruption.corrupt, in_axes=(0, None, None), **options)
    corrupted = many(keys, jnp.asarray(ids_L), jnp.asarray(masked_L))
    assert corrupted.dtype == jnp.int32
    return np.asarray(corrupted)


@pytest.mark.parametrize("k", [3, 6])
@pytest.mark.parametrize("seed", range(3))
def test_corrupt_draws_only_kmers_and_keeps_80_10_10(seed, k):
    """Each share lies within 5 binomial standard deviations.

    k=3: of the 64 k-mers and 5 special tokens, 7 % of wrong draws would be
    special; there are about 20,000 draws.
    """
    ids_L = np.full(512, slow.NUM_SPECIAL + 7, np.int32)
    corrupted = corrupt_many(ids_L, np.ones(512, bool), 400, seed, k=k, by="token")
    num_trials = corrupted.size
    by_chance = 0.1 / 4**k  # a random k-mer may be the original one
    is_mask, is_kept = corrupted == slow.MASK, corrupted == ids_L
    replaced = corrupted[~is_mask & ~is_kept]
    for count, share in [
        (is_mask.sum(), 0.8),
        (is_kept.sum(), 0.1 + by_chance),
        (replaced.size, 0.1 - by_chance),
    ]:
        assert abs(count - num_trials * share) < 5 * np.sqrt(num_trials * share * (1 - share))
    assert replaced.min() >= slow.NUM_SPECIAL
    assert replaced.max() < slow.NUM_SPECIAL + 4**k
    counts = np.bincount(replaced - slow.NUM_SPECIAL, minlength=4**k)
    if k == 3:
        counts = np.delete(counts, 7)
        sd = np.sqrt(num_trials * by_chance * (1 - by_chance))
        assert np.abs(counts - num_trials * by_chance).max() < 5 * sd
    else:
        assert (counts > 0).mean() > 0.95  # 20,480 draws leave 0.7 % of 4,096 k-mers out


def test_the_fates_of_neighbouring_tokens_are_independent():
    """Both tokens of a disjoint pair become [MASK] with 0.64, within 5 binomial sd."""
    ids_L = np.full(512, slow.NUM_SPECIAL + 7, np.int32)
    corrupted = corrupt_many(ids_L, np.ones(512, bool), 400, seed=7, k=6, by="token")
    both = (corrupted.reshape(-1, 2) == slow.MASK).all(axis=1)
    assert abs(both.sum() - 0.64 * both.size) < 5 * np.sqrt(0.64 * 0.36 * both.size)


@pytest.mark.parametrize("by", ["token", "run"])
@pytest.mark.parametrize(("k", "stride"), [(6, 1), (3, 3)])
def test_corrupt_changes_masked_kmers_only(k, stride, by):
    cases = make_cases(k, stride, 70)
    options = {"k": k, "stride": stride}
    masked = batched(strategies.random, **options)(cases["centers"], cases["eligible"])
    keys = jax.random.split(jax.random.key(0), len(masked))
    corrupted = batched(corruption.corrupt, **options, by=by)(keys, cases["ids"], masked)
    changed = np.asarray(corrupted) != cases["ids"]
    assert changed.any()
    assert not (changed & ~(np.asarray(masked) & cases["eligible"])).any()
    assert not np.isin(np.asarray(corrupted)[changed], range(slow.MASK)).any()


def runs_example(k, stride):
    """Returns ids (L,) and a mask (L,) with runs of 1 to 11 tokens, one or two tokens apart."""
    rng = np.random.default_rng([k, stride])
    masked = []
    for num_masked in [*range(1, 12), *rng.integers(1, 12, 30)]:
        masked += [True] * int(num_masked) + [False] * int(rng.integers(1, 3))
    bases = "".join(rng.choice(list("ATCG"), (len(masked) - 1) * stride + k))
    return np.array(slow.tokenize(bases, k, stride), np.int32), np.array(masked)


def fates_of_runs(ids_L, masked_L, corrupted, k, stride):
    """Returns (draws, runs) of mask/kept/replaced; fails on two fates or differing overlaps."""
    found = []
    for corrupted_L in corrupted.tolist():
        fates = []
        for run in slow.runs(masked_L.tolist()):
            tokens = [corrupted_L[position] for position in run]
            originals = [int(ids_L[position]) for position in run]
            if set(tokens) == {slow.MASK}:
                fates.append("mask")
            elif tokens == originals:
                fates.append("kept")
            else:
                assert all(slow.NUM_SPECIAL <= token < slow.NUM_SPECIAL + 4**k for token in tokens)
                kmers = [slow.spell(token, k) for token in tokens]
                for left, right in zip(kmers, kmers[1:], strict=False):
                    assert left[stride:] == right[: k - stride]
                fates.append("replaced")
        found.append(fates)
    return np.array(found)


@pytest.mark.parametrize(("k", "stride"), [(6, 1), (4, 3), (6, 6)])
def test_run_corruption_has_one_fate_a_run_and_consistent_overlaps(k, stride):
    """80/10/10 over runs within 5 binomial sd, and the fates of two runs are independent.

    That a random run is the original one by chance (1/256 at the most, of the
    10 %) is a seventh of a standard deviation and left out.
    """
    ids_L, masked_L = runs_example(k, stride)
    corrupted = corrupt_many(ids_L, masked_L, 200, k=k, stride=stride, by="run")
    fates = fates_of_runs(ids_L, masked_L, corrupted, k, stride)
    for fate, share in [("mask", 0.8), ("kept", 0.1), ("replaced", 0.1)]:
        count = (fates == fate).sum()
        assert abs(count - fates.size * share) < 5 * np.sqrt(fates.size * share * (1 - share))
    pairs = fates[:, : fates.shape[1] // 2 * 2].reshape(-1, 2)
    same = (pairs[:, 0] == pairs[:, 1]).sum()
    share = 0.8**2 + 2 * 0.1**2
    assert abs(same - len(pairs) * share) < 5 * np.sqrt(len(pairs) * share * (1 - share))


def test_the_kmers_of_a_replaced_run_are_uniform_and_differ_between_runs():
    """First and last 3-mers of replaced runs: each of the 64 within 5 binomial sd.

    All originals are one 3-mer, which is left out of the counts: a run of it
    cannot be told from a kept one.
    """
    run_length, num_runs, num_keys = 5, 60, 600
    masked_L = np.tile([True] * run_length + [False], num_runs)
    ids_L = np.full(len(masked_L), slow.token_id("AAA"), np.int32)
    corrupted = corrupt_many(ids_L, masked_L, num_keys, k=3, by="run")
    runs = corrupted.reshape(num_keys, num_runs, run_length + 1)[:, :, :run_length]
    replaced = (runs != slow.MASK).all(axis=2) & (runs != slow.token_id("AAA")).any(axis=2)
    share = 0.1 / 64
    sd = np.sqrt(num_keys * num_runs * share * (1 - share))
    for column in (0, run_length - 1):
        counts = np.bincount(runs[replaced][:, column] - slow.NUM_SPECIAL, minlength=64)
        assert np.abs(counts[1:] - num_keys * num_runs * share).max() < 5 * sd
    neighbours = replaced[:, 1:] & replaced[:, :-1]
    equal = (runs[:, 1:] == runs[:, :-1]).all(axis=2) & neighbours
    assert neighbours.sum() > 100
    assert equal.sum() <= 2  # 7 equal bases have a chance of 1/16,384


def test_the_default_corruption_is_the_published_one():
    ids_L, masked_L = runs_example(6, 1)
    default = corrupt_many(ids_L, masked_L, 4, k=6)
    np.testing.assert_array_equal(default, corrupt_many(ids_L, masked_L, 4, k=6, by="token"))


# Hidden bases.


@pytest.mark.parametrize(("k", "stride", "length"), GEOMETRIES)
def test_hidden_bases_equal_a_count_base_by_base(k, stride, length):
    cases = make_cases(k, stride, length)
    options = {"k": k, "stride": stride}
    masked = [
        slow.genemask(*case, **options) for case in plain(cases, "centers", "eligible", "rank")
    ]
    rng = np.random.default_rng(0)  # no, a few, or a fifth of the masked tokens are shown
    shown_share = np.resize([0.0, 0.05, 0.2], (len(masked), 1))
    is_hidden = np.array(masked) & (rng.random((len(masked), length)) >= shown_share)
    other = (cases["ids"] - slow.NUM_SPECIAL + 1) % 4**k + slow.NUM_SPECIAL
    replacement = np.where(rng.random(is_hidden.shape) < 0.1, other, slow.MASK)
    cases["corrupted"] = np.where(is_hidden, replacement, cases["ids"]).astype(np.int32)
    names = ("ids", "corrupted", "eligible")
    found = batched(corruption.hidden_bases, **options)(*(cases[name] for name in names))
    expected = [slow.hidden_bases(*case, **options) for case in plain(cases, *names)]
    assert found.dtype == jnp.int32
    assert_equal_cases(found, expected)


def hidden_counts(masked_positions, kept_positions=(), k=6, stride=1, length=40):
    """Returns hidden_bases of [CLS], k-mers, [SEP] with the masked ones replaced by [MASK]."""
    rng = np.random.default_rng(0)
    bases = "".join(rng.choice(list("ATCG"), (length - 3) * stride + k))
    ids = np.array([slow.CLS, *slow.tokenize(bases, k, stride), slow.SEP], np.int32)
    corrupted = ids.copy()
    corrupted[list(masked_positions)] = slow.MASK
    corrupted[list(kept_positions)] = ids[list(kept_positions)]
    counts = corruption.hidden_bases(
        jnp.asarray(ids), jnp.asarray(corrupted), jnp.asarray(ids >= 5), k=k, stride=stride
    )
    return np.asarray(counts)


@pytest.mark.parametrize("num_masked", range(0, 15))
def test_a_run_of_m_masked_6mers_hides_m_minus_5_bases(num_masked):
    """Every hidden base lies in 6 tokens, all of them masked, so the sum counts it 6 times."""
    counts = hidden_counts(range(12, 12 + num_masked))
    assert counts.sum() == 6 * max(0, num_masked - 5)
    assert not counts[:12].any()
    assert not counts[12 + num_masked :].any()


def test_a_run_at_the_start_of_the_sequence_hides_a_base_a_token():
    """The first base is in the first token only: three masked tokens hide bases 0, 1, 2."""
    assert hidden_counts([1, 2, 3])[:5].tolist() == [0, 3, 2, 1, 0]
    assert hidden_counts([36, 37, 38])[35:].tolist() == [0, 1, 2, 3, 0]


def test_a_kept_token_shows_its_neighbours_bases():
    """11 masked 6-mers hide 6 bases; with the middle one kept, 5 and 5 are left and hide none."""
    assert hidden_counts(range(10, 21)).sum() == 36
    assert hidden_counts(range(10, 21), kept_positions=[15]).sum() == 0


def test_a_masked_token_that_overlaps_no_other_hides_all_its_bases():
    assert hidden_counts([4, 7], stride=6).tolist() == [6 * (i in (4, 7)) for i in range(40)]


# Batches.


@pytest.mark.parametrize(
    ("function", "names", "options"),
    [
        (corruption.corrupt, ("key", "ids", "centers"), {"by": "token"}),
        (corruption.corrupt, ("key", "ids", "centers"), {"by": "run"}),
        (strategies.sample_mask, ("key", "ids", "ranks"), {"strategy": "genemask", "budget": 0.15}),
    ],
)
def test_a_case_of_a_batch_is_drawn_as_the_case_alone(function, names, options):
    """The selections are compared with the slow version case by case, above."""
    cases = {name: jnp.asarray(values) for name, values in make_cases(6, 1, 70).items()}
    num_cases = len(cases["ids"])
    cases["key"] = jax.random.split(jax.random.key(4), num_cases)
    cases["ranks"] = jnp.tile(jnp.arange(4**6, 0, -1, dtype=jnp.int32), (num_cases, 1))
    program = functools.partial(function, k=6, stride=1, **options)
    together = jax.jit(jax.vmap(program))(*(cases[name] for name in names))
    alone = jax.jit(program)
    for case in (4, 11, 23):
        one = alone(*(cases[name][case] for name in names))
        np.testing.assert_array_equal(together[case], one)
