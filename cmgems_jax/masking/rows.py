"""Windows of bases to the rows that a model sees: ids, masks, corruption, packing.

Axes: R rows, M windows per row, N bases, L token positions, V k-mers. Each window is
tokenised, masked and corrupted by itself; then the windows of a row are laid behind
each other (windows/packing.py).
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cmgems_jax.config import Config
from cmgems_jax.genome import vocabulary
from cmgems_jax.masking import corruption, curriculum
from cmgems_jax.masking import strategies as masking_strategies
from cmgems_jax.windows import packing
from cmgems_jax.windows.packing import Batch, Layout


class MaskedBatch(NamedTuple):
    """Windows, each by itself: what the model sees and what it predicts."""

    ids: jax.Array  # int32 (R, M, L), true
    corrupted: jax.Array  # int32 (R, M, L)
    masked: jax.Array  # bool (R, M, L), after dropping
    dropped: jax.Array  # int32 (R, M), those beyond masking.max_predictions


class Rows(NamedTuple):
    """The same windows as the model computes them; [PAD] behind the last of a row."""

    ids: jax.Array  # int32 (R, L), true
    corrupted: jax.Array  # int32 (R, L)
    masked: jax.Array  # bool (R, L)
    layout: Layout | None  # (R, L); None where every row holds one window


def max_predictions(config: Config, num_rows: int) -> int:
    """Returns P, how many masked tokens of `num_rows` rows are predicted at most.

    Room for all that the run's strategies mask under the largest budget, so that no
    loss depends on how rows are grouped by accumulation and devices. The rows have it in
    common: each by itself would need two to three times as much.
    """
    num_tokens = num_rows * (config.data.num_tokens - 2)
    room = max(
        masking_strategies.most_masked(
            strategy,
            config.largest_budget,
            num_tokens,
            config.tokens.k,
            config.tokens.stride,
            top_m=config.masking.top_m,
        )
        for strategy in (*curriculum.strategies(config.curriculum), "random")  # evaluations' own
    )
    if config.masking.max_predictions:
        most = config.masking.max_predictions * config.data.windows_per_row
        room = min(room, num_rows * most)
    return min(8 * math.ceil(room / 8), num_tokens)


@jax.named_scope("masking")
def mask_batch(
    key: jax.Array,
    batch: Batch,
    which: jax.Array,
    budget: jax.Array,
    *,
    strategies: tuple[str, ...],
    ranks_V: jax.Array,
    config: Config,
    growth: int | jax.Array = 0,
    objective: str = "token",
) -> MaskedBatch:
    """Returns masked and corrupted windows; masks depend on the key and the index alone.

    Args:
      key: the step's masking key.
      batch: bases (R, M, N), index (R, M).
      which: int32 or bool scalar, the entry of `strategies`, static names, to use. Two
        are chosen from by `lax.cond`, more by `lax.switch`, outside any vmap, so that
        only the chosen one runs.
      budget: float32 scalar, share of tokens to mask.
      ranks_V: int32 (4**k,), PMI ranks.
      growth: of `strategies.random_mask`.
      objective: "base" leaves masked what touches a hidden base, all of it as [MASK].
    """
    spans = {"k": config.tokens.k, "stride": config.tokens.stride}
    flat = merge_axes(batch)  # W windows
    ids_WL = vocabulary.model_ids(flat.bases, **spans)
    keys_W = jax.vmap(jax.random.fold_in, (None, 0))(key, flat.index)
    mask_keys_W, corrupt_keys_W = jnp.moveaxis(jax.vmap(jax.random.split)(keys_W), 1, 0)

    operands = (mask_keys_W, ids_WL, budget, jnp.int32(growth))
    chosen_WL = _sample_masks(which, operands, strategies, ranks_V, config)
    most = config.masking.max_predictions or ids_WL.shape[1]
    masked_WL = jax.vmap(masking_strategies.keep_first, (0, None))(chosen_WL, most)
    dropped_W = (chosen_WL & ~masked_WL).sum(axis=1, dtype=jnp.int32)
    if objective == "base":
        hide = functools.partial(corruption.hide_bases, **spans)
        corrupted_WL, masked_WL = jax.vmap(hide)(ids_WL, masked_WL)
    else:
        corrupt = functools.partial(corruption.corrupt, by=config.masking.corruption, **spans)
        corrupted_WL = jax.vmap(corrupt)(corrupt_keys_W, ids_WL, masked_WL)
    masked = MaskedBatch(ids_WL, corrupted_WL, masked_WL, dropped_W)
    return jax.tree.map(lambda x: x.reshape(*batch.index.shape, *x.shape[1:]), masked)


def _sample_masks(
    which: jax.Array,
    operands: tuple[jax.Array, ...],
    strategies: tuple[str, ...],
    ranks_V: jax.Array,
    config: Config,
) -> jax.Array:
    """Returns the masks of windows, bool (W, L), under the strategy `which` and no other.

    The operands are keys (W,), ids (W, L), budget, growth; the rest is as for `mask_batch`.
    """

    def sampler(strategy: str) -> Callable[..., jax.Array]:
        sample = functools.partial(
            masking_strategies.sample_mask,
            ranks_V=ranks_V,
            strategy=strategy,
            k=config.tokens.k,
            stride=config.tokens.stride,
            min_distance=config.masking.min_distance,
            top_m=config.masking.top_m,
        )
        return jax.vmap(
            lambda key, ids_L, budget, growth: sample(key, ids_L, budget=budget, growth=growth),
            (0, 0, None, None),
        )

    if len(set(strategies)) == 1:
        return sampler(strategies[0])(*operands)
    if len(strategies) == 2:
        return jax.lax.cond(which, sampler(strategies[1]), sampler(strategies[0]), *operands)
    return jax.lax.switch(which, [sampler(name) for name in strategies], *operands)


def lay_in_rows(masked: MaskedBatch) -> Rows:
    """Returns the windows of each row behind each other."""
    if masked.ids.shape[1] == 1:
        return Rows(masked.ids[:, 0], masked.corrupted[:, 0], masked.masked[:, 0], None)
    length_RM = (masked.ids != vocabulary.PAD).sum(axis=2, dtype=jnp.int32)
    length_RM = jnp.where(length_RM > 2, length_RM, 0)  # nothing but [CLS] and [SEP]: no window
    layout = packing.lay_out(length_RM, masked.ids.shape[2])
    return Rows(
        ids=packing.to_rows(masked.ids, layout, vocabulary.PAD),
        corrupted=packing.to_rows(masked.corrupted, layout, vocabulary.PAD),
        masked=packing.to_rows(masked.masked, layout, False),
        layout=layout,
    )


def merge_axes(tree: Any) -> Any:
    """Returns arrays (X, Y, ...) as (X * Y, ...)."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)


def mask_sums(batch: Batch, masked: MaskedBatch, config: Config) -> dict[str, jax.Array]:
    """Returns float32 sums that describe the masks of windows (R, M, ...)."""
    eligible_RML = masked.ids >= vocabulary.NUM_SPECIAL
    cover = functools.partial(
        corruption.hidden_bases, k=config.tokens.k, stride=config.tokens.stride
    )
    covered_RML = jax.vmap(jax.vmap(cover))(masked.ids, masked.corrupted, eligible_RML)
    is_window_RM = eligible_RML.any(axis=2)
    sums = {
        "windows": is_window_RM.sum(dtype=jnp.int32),
        "unmasked_windows": (is_window_RM & ~masked.masked.any(axis=2)).sum(dtype=jnp.int32),
        "predicted": masked.masked.sum(dtype=jnp.int32),
        "eligible": eligible_RML.sum(dtype=jnp.int32),
        "dropped_positions": masked.dropped.sum(dtype=jnp.int32),
        "hidden_covered": jnp.where(masked.masked, covered_RML, 0).sum(dtype=jnp.int32),
        "bases": (batch.bases != vocabulary.PADDING).sum(dtype=jnp.int32),
    }
    return {name: value.astype(jnp.float32) for name, value in sums.items()}
