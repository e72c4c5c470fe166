"""Which tokens are masked: random spans, GeneMask, GLOBAL, their controls and a rival.

Everything here is for one sequence, pure and of static shape; callers vmap.
Axes: L token positions ([CLS], [SEP] and padding included), V k-mers; masks are bool (L,).
A token has `k` bases, and neighbouring ones begin `stride` bases apart.

`eligible` is False at special tokens, padding and [UNK]. Neighbouring k-mers
share bases, so one masked token can be read off its neighbours: every strategy
masks runs (Ji et al. 2021; Roy et al. 2023, 2024).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from scipy import special

from cmgems_jax.genome import vocabulary
from cmgems_jax.masking import ranking
from cmgems_jax.masking.ranking import INELIGIBLE_RANK

OVERFLOW = 1e-9  # chance that a mask has more than `most_masked`
NUM_GROWTHS = 5  # equal parts of a run, in each of which `random_mask` may mask 2 tokens more


def tokens_per_base(k: int, stride: int = 1) -> int:
    """Returns how many tokens cover one base: k for overlapping k-mers."""
    return math.ceil(k / stride)


def window_offsets(k: int, stride: int = 1) -> tuple[int, ...]:
    """Returns the token offsets of a center's window: -2..3 for k=6."""
    width = tokens_per_base(k, stride)
    return tuple(range(-((width - 1) // 2), width // 2 + 1))


def spread_offsets(k: int, stride: int = 1) -> tuple[int, ...]:
    """Returns the offsets that hide a whole token: -(k-1)..k-1 for overlapping k-mers."""
    reach = tokens_per_base(k, stride) - 1
    return tuple(range(-reach, reach + 1))


def tokens_per_center(strategy: str, k: int, stride: int = 1) -> float:
    """Returns the expected masked tokens per center: 6, 8.5, 11 for k=6 (SPEC: masking).

    That of `random_mask` is before its windows grow.
    """
    window, spread = len(window_offsets(k, stride)), len(spread_offsets(k, stride))
    share = _STRATEGIES[strategy].window_share
    return share * window + (1 - share) * spread


def center_rate(
    strategy: str,
    budget: float | jax.Array,
    k: int,
    stride: int = 1,
    *,
    top_m: float = 1.0,
    growth: float | jax.Array = 0.0,
) -> float | jax.Array:
    """Returns the share of eligible tokens to sample as centers, for a budget of masked tokens."""
    per_center = tokens_per_center(strategy, k, stride)
    if _STRATEGIES[strategy].grows:
        per_center += growth
    return budget / per_center * (top_m if _STRATEGIES[strategy].counts_centers else 1)


def most_masked(
    strategy: str, budget: float, num_tokens: int, k: int, stride: int = 1, *, top_m: float = 1.0
) -> int:
    """Returns how many of `num_tokens` tokens are masked at most, but for an `OVERFLOW` of masks.

    A center masks one span at most, so the binomial number of centers bounds the masks
    of any sequences of that many tokens together, whatever stands in them.
    """
    rule = _STRATEGIES[strategy]
    spans = window_offsets if rule.window_share == 1 else spread_offsets
    longest = len(spans(k, stride)) + (2 * (NUM_GROWTHS - 1) if rule.grows else 0)
    rate = center_rate(strategy, budget, k, stride, top_m=top_m, growth=NUM_GROWTHS - 1)
    num_centers = special.bdtrik(1 - OVERFLOW, num_tokens, min(1.0, rate))
    return min(longest * math.ceil(num_centers), num_tokens)


def expand_to_spans(
    centers_L: jax.Array, eligible_L: jax.Array, offsets: tuple[int, ...]
) -> jax.Array:
    """Returns the tokens at static `offsets` from any center, within `eligible_L`, bool (L,).

    Spans are cut at the ends of the sequence, not wrapped around.
    """
    masked_L = jnp.zeros_like(centers_L)
    for offset in offsets:
        masked_L |= _shift(centers_L, offset, False)
    return masked_L & eligible_L


def random(centers_L: jax.Array, eligible_L: jax.Array, *, k: int, stride: int = 1) -> jax.Array:
    """Returns DNABERT's mask, bool (L,): the window of every center (Ji et al. 2021)."""
    return expand_to_spans(centers_L, eligible_L, window_offsets(k, stride))


def random_mask(
    key: jax.Array,
    centers_L: jax.Array,
    eligible_L: jax.Array,
    growth: jax.Array,
    *,
    k: int,
    stride: int = 1,
) -> jax.Array:
    """Returns RandomMask's mask: windows whose largest width grows (arXiv 2310.07644).

    The width of each center is sampled from w, w + 2, ..., w + 2 * growth, w being that
    of `window_offsets`: with wide windows a masked token can no longer be
    read off its neighbours.

    `centers_L` are all eligible; `growth` is an int32 scalar, 0 to NUM_GROWTHS - 1.
    """
    widening_L = jax.random.randint(key, centers_L.shape, 0, jnp.int32(growth) + 1, jnp.int32)
    offsets, masked_L = window_offsets(k, stride), jnp.zeros_like(centers_L)
    for widening in range(NUM_GROWTHS):
        wide = tuple(range(offsets[0] - widening, offsets[-1] + widening + 1))
        masked_L |= expand_to_spans(centers_L & (widening_L == widening), eligible_L, wide)
    return masked_L


def genemask(
    centers_L: jax.Array, eligible_L: jax.Array, rank_L: jax.Array, *, k: int, stride: int = 1
) -> jax.Array:
    """Returns GeneMask's mask: windows, and spreads around the better half's best tokens.

    Each center's best token is the lowest rank in its window (the center first,
    then by offset). The centers are sorted by that rank (ties by position); the
    best half of them, rounded up, or all where that is fewer than 5, also mask
    the whole neighbourhood of their best token (Roy et al., ECAI 2023).

    `centers_L` are all eligible; `rank_L` holds int32 PMI ranks of the tokens, 1 = best,
    `INELIGIBLE_RANK` where not eligible.
    """
    offsets = window_offsets(k, stride)
    in_order = (0, *(offset for offset in offsets if offset))
    window_rank_OL = jnp.stack([_shift(rank_L, -o, INELIGIBLE_RANK) for o in in_order])
    best_rank_L = window_rank_OL.min(axis=0)
    best_offset_L = jnp.array(in_order, jnp.int32)[window_rank_OL.argmin(axis=0)]

    num_centers = centers_L.sum(dtype=jnp.int32)
    half = (num_centers + 1) // 2
    kept = jnp.where(half < 5, num_centers, half)
    kept_L = ranking.lowest(jnp.where(centers_L, best_rank_L, INELIGIBLE_RANK), kept) & centers_L

    best_L = jnp.zeros_like(centers_L)
    for offset in offsets:
        best_L |= _shift(kept_L & (best_offset_L == offset), offset, False)
    windows_L = expand_to_spans(centers_L, eligible_L, offsets)
    return windows_L | expand_to_spans(best_L, eligible_L, spread_offsets(k, stride))


def global_top(
    num_centers: jax.Array,
    eligible_L: jax.Array,
    rank_L: jax.Array,
    *,
    k: int,
    stride: int = 1,
    min_distance: int = 0,
) -> jax.Array:
    """Returns GLOBAL's mask: the neighbourhoods of the best tokens of the whole sequence.

    Args:
      num_centers: int32 scalar, how many tokens to choose; all where fewer are eligible.
      eligible_L: bool (L,).
      rank_L: int32 (L,), as of `genemask`. Ties go to the earlier position.
      min_distance: least distance of two chosen tokens, in tokens; candidates
        that lie nearer to a better one are skipped. 0 = the paper.
    """
    if min_distance > 1:
        best_L = ranking.lowest_apart(rank_L, eligible_L, num_centers, min_distance)
    else:
        best_L = ranking.lowest(rank_L, num_centers) & eligible_L
    return expand_to_spans(best_L, eligible_L, spread_offsets(k, stride))


class _Sample(NamedTuple):
    """One sequence with its centers, and all that a strategy may go by."""

    key: jax.Array
    ids_L: jax.Array
    eligible_L: jax.Array
    centers_L: jax.Array
    ranks_V: jax.Array
    growth: int | jax.Array
    min_distance: int
    spans: dict[str, int]  # k and stride

    @property
    def token_rank_L(self) -> jax.Array:
        """The rank of the token at each position."""
        return ranking.token_ranks(self.ids_L, self.ranks_V, self.eligible_L)

    @property
    def position_rank_L(self) -> jax.Array:
        """The rank of the k-mer whose code is the position."""
        return ranking.position_ranks(self.ranks_V, self.eligible_L)


class _Strategy(NamedTuple):
    """What tells a strategy from the others."""

    mask: Callable[[_Sample], jax.Array]
    window_share: float  # of the centers, that mask a window; the others mask a spread
    grows: bool = False  # whether windows widen in the course of a run
    counts_centers: bool = False  # so that top_m multiplies their number


def _genemask(sample: _Sample, rank_L: jax.Array) -> jax.Array:
    """GeneMask by the given ranks."""
    return genemask(sample.centers_L, sample.eligible_L, rank_L, **sample.spans)


def _global(sample: _Sample, rank_L: jax.Array) -> jax.Array:
    """GLOBAL by the given ranks, of as many tokens as there are centers."""
    num_centers = sample.centers_L.sum(dtype=jnp.int32)
    options = {"min_distance": sample.min_distance, **sample.spans}
    return global_top(num_centers, sample.eligible_L, rank_L, **options)


_STRATEGIES = {
    "random": _Strategy(lambda s: random(s.centers_L, s.eligible_L, **s.spans), 1.0),
    "genemask": _Strategy(lambda s: _genemask(s, s.token_rank_L), 0.5),
    "global": _Strategy(lambda s: _global(s, s.token_rank_L), 0.0, counts_centers=True),
    # A rival.
    "random_mask": _Strategy(
        lambda s: random_mask(s.key, s.centers_L, s.eligible_L, s.growth, **s.spans),
        1.0,
        grows=True,
    ),
    # Controls of the studies: the released code's ranks, and GLOBAL's spans at random centers.
    "genemask_by_position": _Strategy(lambda s: _genemask(s, s.position_rank_L), 0.5),
    "global_by_position": _Strategy(
        lambda s: _global(s, s.position_rank_L), 0.0, counts_centers=True
    ),
    "random_spans": _Strategy(
        lambda s: expand_to_spans(s.centers_L, s.eligible_L, spread_offsets(**s.spans)), 0.0
    ),
}


def sample_mask(
    key: jax.Array,
    ids_L: jax.Array,
    ranks_V: jax.Array,
    *,
    strategy: str,
    budget: float | jax.Array,
    k: int,
    stride: int = 1,
    min_distance: int = 0,
    top_m: float = 1.0,
    growth: int | jax.Array = 0,
) -> jax.Array:
    """Returns a mask: Bernoulli centers among the eligible tokens, then the strategy.

    Args:
      key: one PRNG key.
      ids_L: int32 (L,), token ids with [CLS], [SEP] and padding.
      ranks_V: int32 (4**k,), rank of every k-mer by its code, 1 = best.
      strategy: one of `config.STRATEGIES`; static.
      budget: share of the eligible tokens to mask, in expectation and before overlaps.
      min_distance: of `global_top`.
      top_m: GLOBAL's number of tokens, as a multiple of the published one.
      growth: of `random_mask`.
    """
    rule = _STRATEGIES[strategy]
    # Only strategies with widths to sample split the key: masks of a seed stay as they were.
    center_key, width_key = jax.random.split(key) if rule.grows else (key, key)
    eligible_L = ids_L >= vocabulary.NUM_SPECIAL
    widening = jnp.asarray(growth, jnp.float32)
    rate = center_rate(strategy, budget, k, stride, top_m=top_m, growth=widening)
    centers_L = (jax.random.uniform(center_key, ids_L.shape) < rate) & eligible_L
    spans = {"k": k, "stride": stride}
    return rule.mask(
        _Sample(width_key, ids_L, eligible_L, centers_L, ranks_V, growth, min_distance, spans)
    )


def keep_first(masked_L: jax.Array, max_predictions: int) -> jax.Array:
    """Returns the first `max_predictions` masked positions, bool (L,); the rest is dropped."""
    return masked_L & (jnp.cumsum(masked_L, dtype=jnp.int32) <= max_predictions)


def _shift(value_L: jax.Array, offset: int, fill: bool | int) -> jax.Array:
    """Returns value_L moved right by `offset` (left where negative), `fill` moving in."""
    return jax.lax.pad(value_L, jnp.asarray(fill, value_L.dtype), [(offset, -offset, 0)])
