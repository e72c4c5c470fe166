"""One training step and one evaluation step, pure, written against the axis `data`.

Axes: A accumulation steps, R rows, M windows a row, N bases, L token positions, P
predicted positions of all rows together, V vocabulary. Only bases (uint8) come from
the host: ids, ranks, masks and corruption are made here, for each window by itself;
then the windows of a row are laid behind each other (packing.py). Sums cross devices,
not means, so that the update does not depend on how many there are.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from cmgems_jax import bert, curriculum, masking, optimizer, packing, parallel, vocabulary
from cmgems_jax.config import Config
from cmgems_jax.curriculum import CurriculumState
from cmgems_jax.packing import Batch, Layout

# Branches of the run's key, and of a step's; windows fold their number into those.
_INIT_KEY, _TRAIN_KEY, _EVAL_KEY = range(3)
_MASK_KEY, _DROPOUT_KEY, _STAGE_KEY = range(3)


@flax.struct.dataclass
class TrainState:
    """All that a checkpoint holds."""

    step: jax.Array  # int32, updates done
    params: dict  # float32
    opt_state: optax.OptState
    key: jax.Array  # uint32 (2,), the run's key; derived from, never advanced
    curriculum: CurriculumState


class MaskedBatch(NamedTuple):
    """Windows, each by itself: what the model sees and what it shall predict."""

    ids: jax.Array  # int32 (R, M, L), true
    corrupted: jax.Array  # int32 (R, M, L)
    masked: jax.Array  # bool (R, M, L), after dropping
    dropped: jax.Array  # int32 (R, M), masked positions for which there was no room


class Rows(NamedTuple):
    """The same windows as the model computes them; [PAD] behind the last of a row."""

    ids: jax.Array  # int32 (R, L), true
    corrupted: jax.Array  # int32 (R, L)
    masked: jax.Array  # bool (R, L)
    layout: Layout | None  # (R, L); None where every row holds one window


def max_predictions(config: Config, num_rows: int) -> int:
    """Returns P, how many masked tokens of `num_rows` rows are predicted at most.

    `masking.max_predictions` a row where that is set. Otherwise 6 standard
    deviations above the mean, with the share of short rows (none where they are
    packed) and the largest budget: so much room that the masks do not depend on how
    rows are grouped. The excess over the budget is GeneMask's on short windows,
    where all centers spread.
    """
    tokens = config.data.num_tokens - 2
    if config.masking.max_predictions:
        return num_rows * min(config.masking.max_predictions, tokens)
    k, stride, budget = config.tokens.k, config.tokens.stride, config.largest_budget
    spread = len(masking.spread_offsets(k, stride))
    used = " ".join(curriculum.strategies(config.curriculum))
    excess = spread / masking.tokens_per_center("genemask", k, stride) if "genemask" in used else 1
    excess = max(excess, config.masking.top_m) if "global" in used else excess
    full = config.data.full_length_share if config.data.windows_a_row == 1 else 1
    length, length_squared = tokens * (1 + full) / 2, tokens**2 * (1 + 2 * full) / 3
    share = budget * excess
    variance = share * spread * length + share**2 * (length_squared - length**2)
    wanted = num_rows * share * length + 6 * math.sqrt(num_rows * variance)
    return min(8 * math.ceil(wanted / 8), num_rows * tokens)


def model_ids(bases_N: jax.Array, *, k: int, stride: int = 1) -> jax.Array:
    """Returns [CLS], the k-mers, [SEP], [PAD]...: int32 (tokens + 2,) of one sequence."""
    tokens_T = vocabulary.tokenize(bases_N, k, stride)
    num_tokens = (tokens_T != vocabulary.PAD).sum(dtype=jnp.int32)
    ids_L = jnp.pad(tokens_T, (1, 1), constant_values=vocabulary.PAD)
    position_L = jnp.arange(ids_L.shape[0], dtype=jnp.int32)
    ids_L = jnp.where(position_L == num_tokens + 1, vocabulary.SEP, ids_L)
    return jnp.where(position_L == 0, vocabulary.CLS, ids_L)


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
    num_parts: int = 1,
) -> MaskedBatch:
    """Returns masked and corrupted windows; masks depend on the key and the index alone.

    Args:
      key: the step's masking key.
      batch: bases (R, M, N), index (R, M).
      which: int32 or bool scalar, the entry of `strategies` to use. Two are chosen
        from by `lax.cond`, more by `lax.switch`, outside any vmap, so that only
        the chosen one runs.
      budget: float32 scalar, share of tokens to mask.
      strategies: names, static.
      ranks_V: int32 (4**k,), PMI ranks.
      config: the run's config.
      growth: of `masking.random_mask`.
      num_parts: equal parts of the rows that have room for `max_predictions` each.
    """
    tokens, settings = config.tokens, config.masking
    spans = {"k": tokens.k, "stride": tokens.stride}
    flat = _merge_axes(batch)  # W windows
    ids_WL = jax.vmap(functools.partial(model_ids, **spans))(flat.bases)
    keys_W = jax.vmap(jax.random.fold_in, (None, 0))(key, flat.index)
    mask_keys_W, corrupt_keys_W = jnp.moveaxis(jax.vmap(jax.random.split)(keys_W), 1, 0)

    def drawer(strategy: str) -> Callable[..., jax.Array]:
        def draw(
            key: jax.Array, ids_L: jax.Array, budget: jax.Array, growth: jax.Array
        ) -> jax.Array:
            return masking.draw(
                key,
                ids_L,
                ranks_V,
                strategy=strategy,
                budget=budget,
                min_distance=settings.min_distance,
                top_m=settings.top_m,
                growth=growth,
                **spans,
            )

        return jax.vmap(draw, (0, 0, None, None))

    operands = (mask_keys_W, ids_WL, budget, jnp.int32(growth))
    if len(set(strategies)) == 1:
        wanted_WL = drawer(strategies[0])(*operands)
    elif len(strategies) == 2:
        wanted_WL = jax.lax.cond(which, drawer(strategies[1]), drawer(strategies[0]), *operands)
    else:
        wanted_WL = jax.lax.switch(which, [drawer(name) for name in strategies], *operands)

    num_rows, windows_a_row = batch.index.shape
    room = max_predictions(config, num_rows // num_parts)
    wanted_AX = wanted_WL.reshape(num_parts, -1)
    masked_WL = jax.vmap(masking.keep_first, (0, None))(wanted_AX, room).reshape(ids_WL.shape)
    corrupt = functools.partial(masking.corrupt, by=settings.corruption, **spans)
    masked = MaskedBatch(
        ids=ids_WL,
        corrupted=jax.vmap(corrupt)(corrupt_keys_W, ids_WL, masked_WL),
        masked=masked_WL,
        dropped=(wanted_WL & ~masked_WL).sum(axis=1, dtype=jnp.int32),
    )
    return jax.tree.map(lambda x: x.reshape(num_rows, windows_a_row, *x.shape[1:]), masked)


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


def _merge_axes(tree: Any) -> Any:
    """Returns arrays (X, Y, ...) as (X * Y, ...)."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)


def _loss_sums(
    params: dict,
    rows: Rows,
    dropout_keys_R: jax.Array | None,
    *,
    model: bert.MaskedLM,
    max_predictions: int,
) -> tuple[jax.Array, jax.Array]:
    """Returns the sum of the masked tokens' cross entropies (nats), and of those it gets right."""
    find = functools.partial(jnp.nonzero, size=max_predictions, fill_value=0)
    positions_P = find(rows.masked.ravel())[0].astype(jnp.int32)
    logits_PV = model.apply(
        {"params": params}, rows.corrupted, positions_P, dropout_keys_R, rows.layout
    )
    targets_P = rows.ids.ravel()[positions_P]
    is_masked_P = positions_P > 0  # position 0 is a [CLS], never masked
    losses_P = optax.softmax_cross_entropy_with_integer_labels(logits_PV, targets_P)
    target_logit_P = jnp.take_along_axis(logits_PV, targets_P[:, None], axis=1)[:, 0]
    right_P = (target_logit_P >= logits_PV.max(axis=1)) & is_masked_P
    return jnp.where(is_masked_P, losses_P, 0).sum(), right_P.sum(dtype=jnp.int32)


def _mask_sums(batch: Batch, masked: MaskedBatch, config: Config) -> dict[str, jax.Array]:
    """Returns float32 sums that describe the masks of windows (R, M, ...)."""
    eligible_RML = masked.ids >= vocabulary.NUM_SPECIAL
    cover = functools.partial(masking.hidden_bases, k=config.tokens.k, stride=config.tokens.stride)
    covered_RML = jax.vmap(jax.vmap(cover))(masked.ids, masked.corrupted, eligible_RML)
    sums = {
        "predicted": masked.masked.sum(dtype=jnp.int32),
        "eligible": eligible_RML.sum(dtype=jnp.int32),
        "dropped_positions": masked.dropped.sum(dtype=jnp.int32),
        "hidden_covered": jnp.where(masked.masked, covered_RML, 0).sum(dtype=jnp.int32),
        "bases": (batch.bases != vocabulary.PADDING).sum(dtype=jnp.int32),
    }
    return {name: value.astype(jnp.float32) for name, value in sums.items()}


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    model: bert.MaskedLM,
    transform: optax.GradientTransformation,
    ranks_V: np.ndarray,
    config: Config,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Returns the state after one update, and metrics summed over all devices.

    Args:
      state: replicated.
      batch: this device's part: bases (A, R, M, N), index (A, R, M).
      model: the network.
      transform: the optimizer.
      ranks_V: int32 (4**k,), PMI ranks.
      config: the run's config.

    Returns:
      The new state, and float32 scalars: loss_sum (nats), right, predicted,
      eligible, dropped_positions, hidden_covered, bases, padding (positions), hard
      (0 or 1), grad_norm (before clipping), budget.
    """
    train_key = jax.random.fold_in(jax.random.wrap_key_data(state.key), _TRAIN_KEY)
    step_key = jax.random.fold_in(train_key, state.step)
    hard = curriculum.is_hard(
        state.curriculum, jax.random.fold_in(step_key, _STAGE_KEY), state.step, config=config
    )
    num_parts, num_rows = batch.index.shape[:2]
    flat = _merge_axes(batch)
    masked = mask_batch(
        jax.random.fold_in(step_key, _MASK_KEY),
        flat,
        hard,
        state.curriculum.budget,
        strategies=curriculum.strategies(config.curriculum),
        ranks_V=jnp.asarray(ranks_V),
        config=config,
        growth=_growth(state.step, config),
        num_parts=num_parts,
    )
    rows = lay_in_rows(masked)
    dropout_keys = _dropout_keys(step_key, flat.index, config)
    loss_sums = functools.partial(
        _loss_sums, model=model, max_predictions=max_predictions(config, num_rows)
    )
    differentiate = jax.value_and_grad(loss_sums, has_aux=True)

    def accumulate(totals: tuple, part: tuple) -> tuple[tuple, None]:
        (loss, right), grads = differentiate(state.params, *part)
        return jax.tree.map(jnp.add, totals, (loss, right, grads)), None

    parts = jax.tree.map(lambda x: x.reshape(num_parts, -1, *x.shape[1:]), (rows, dropout_keys))
    totals = jax.tree.map(jnp.zeros_like, (jnp.float32(0), jnp.int32(0), state.params))
    (loss, right, grads), _ = jax.lax.scan(accumulate, totals, parts)

    sums = _mask_sums(flat, masked, config)
    sums |= {
        "loss_sum": loss,
        "right": right.astype(jnp.float32),
        "padding": (rows.ids == vocabulary.PAD).sum(dtype=jnp.int32).astype(jnp.float32),
    }
    sums, grads = jax.lax.psum((sums, grads), parallel.AXIS)
    scale = 1 / jnp.maximum(sums["predicted"], 1)
    grads = jax.tree.map(lambda grad: grad * scale, grads)
    with jax.numpy_dtype_promotion("standard"):  # optax relies on it
        updates, opt_state = transform.update(grads, state.opt_state, state.params)
    new_state = TrainState(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        opt_state=opt_state,
        key=state.key,
        curriculum=state.curriculum.replace(
            hard_steps=state.curriculum.hard_steps + hard.astype(jnp.int32)
        ),
    )
    return new_state, sums | {
        "hard": hard.astype(jnp.float32),
        "grad_norm": optax.tree.norm(grads),
        "budget": state.curriculum.budget,
    }


def _growth(step: jax.Array, config: Config) -> jax.Array:
    """Returns which of `masking.NUM_GROWTHS` equal parts of the run the step is in."""
    parts = masking.NUM_GROWTHS
    begins = [-(-part * config.num_steps // parts) for part in range(1, parts)]
    return (step >= jnp.array(begins, jnp.int32)).sum(dtype=jnp.int32)


def _dropout_keys(step_key: jax.Array, index_RM: jax.Array, config: Config) -> jax.Array | None:
    """Returns one dropout key a row, that of its first window; None where nothing is dropped."""
    if config.model.dropout == 0 and config.model.attention_dropout == 0:
        return None
    branch = jax.random.fold_in(step_key, _DROPOUT_KEY)
    return jax.vmap(jax.random.fold_in, (None, 0))(branch, index_RM[:, 0])


def eval_strategies(config: Config) -> tuple[str, ...]:
    """Returns the strategies that evaluations choose from by index: easy, hard, random."""
    return (*curriculum.strategies(config.curriculum), "random")


def eval_step(
    state: TrainState,
    batch: Batch,
    which: jax.Array,
    *,
    model: bert.MaskedLM,
    ranks_V: np.ndarray,
    config: Config,
) -> dict[str, jax.Array]:
    """Returns loss_sum and the mask sums over all devices, under fixed masks.

    The key is the run's, not the step's: the same windows are masked alike at
    every evaluation of one strategy and budget, so that a change of perplexity is
    a change of the model.

    Args:
      state: replicated.
      batch: this device's part: bases (1, R, M, N), index (1, R, M).
      which: int32 scalar, index into `eval_strategies(config)`.
      model: the network.
      ranks_V: int32 (4**k,), PMI ranks.
      config: the run's config.
    """
    flat = _merge_axes(batch)
    masked = eval_masks(
        state.key,
        flat,
        which,
        state.curriculum.budget,
        ranks_V=ranks_V,
        config=config,
        growth=_growth(state.step - 1, config),
    )
    room = max_predictions(config, flat.index.shape[0])
    loss, right = _loss_sums(
        state.params, lay_in_rows(masked), None, model=model, max_predictions=room
    )
    sums = _mask_sums(flat, masked, config)
    sums |= {"loss_sum": loss, "right": right.astype(jnp.float32)}
    return jax.lax.psum(sums, parallel.AXIS)


def eval_masks(
    key: jax.Array,
    batch: Batch,
    which: jax.Array,
    budget: jax.Array,
    *,
    ranks_V: np.ndarray,
    config: Config,
    growth: int | jax.Array = 0,
) -> MaskedBatch:
    """Returns the masks of an evaluation, made from the run's fixed evaluation key.

    Under `random` the budget is the config's, so that this perplexity compares
    runs and stages; otherwise it is the curriculum's.

    Args:
      key: uint32 (2,), the run's key.
      batch: bases (R, M, N), index (R, M).
      which: int32 scalar, index into `eval_strategies(config)`.
      budget: float32 scalar, the curriculum's.
      ranks_V: int32 (4**k,), PMI ranks.
      config: the run's config.
      growth: of `masking.random_mask`.
    """
    strategies = eval_strategies(config)
    is_random = which == len(strategies) - 1
    return mask_batch(
        jax.random.fold_in(jax.random.wrap_key_data(key), _EVAL_KEY),
        batch,
        which,
        jnp.where(is_random, jnp.float32(config.masking.budget), budget),
        strategies=strategies,
        ranks_V=jnp.asarray(ranks_V),
        config=config,
        growth=growth,
    )


def init_state(
    config: Config, model: bert.MaskedLM, transform: optax.GradientTransformation
) -> TrainState:
    """Returns the state before the first step; everything random follows from `config.seed`."""
    run_key = jax.random.key(config.seed)
    ids = jnp.zeros((1, config.data.num_tokens), jnp.int32)
    positions = jnp.zeros((1,), jnp.int32)
    init_key = jax.random.fold_in(run_key, _INIT_KEY)
    params = jax.jit(model.init)(init_key, ids, positions)["params"]
    return TrainState(
        step=jnp.int32(0),
        params=params,
        opt_state=transform.init(params),
        key=jax.random.key_data(run_key),
        curriculum=curriculum.init(config),
    )


def make(config: Config, ranks_V: np.ndarray) -> tuple[TrainState, Callable, Callable]:
    """Returns the initial state (replicated), the train program and the eval program."""
    model = bert.MaskedLM(config.model, config.tokens)
    transform = optimizer.make(config)
    shared = {"model": model, "ranks_V": ranks_V, "config": config}
    train = functools.partial(train_step, transform=transform, **shared)
    evaluate = functools.partial(eval_step, **shared)
    state = parallel.replicate(init_state(config, model, transform))
    return state, parallel.train_program(train), parallel.eval_program(evaluate)
