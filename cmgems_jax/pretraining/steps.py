"""One training step and one evaluation step, pure, written against the axis `data`.

Axes: A accumulation steps, R rows, M windows per row, N bases, L token positions, P
predicted positions of all rows together, V vocabulary. Only bases (uint8) come from
the host: ids, masks and rows are made in the step (masking/rows.py). Sums cross devices,
not means, so that the update does not depend on how many there are.
"""

import functools
from collections.abc import Callable

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from cmgems_jax.config import Config
from cmgems_jax.genome import vocabulary
from cmgems_jax.masking import curriculum, learned_ranks
from cmgems_jax.masking import rows as masked_rows
from cmgems_jax.masking import strategies as masking_strategies
from cmgems_jax.masking.curriculum import CurriculumState
from cmgems_jax.masking.learned_ranks import LearnedRanks
from cmgems_jax.masking.rows import MaskedBatch
from cmgems_jax.model import hardware, heads
from cmgems_jax.pretraining import losses, optimizer
from cmgems_jax.runtime import parallel
from cmgems_jax.windows.packing import Batch

# Branches of the run's key, and of a step's; windows fold their number into those.
_INIT_KEY, _TRAIN_KEY, _EVAL_KEY = range(3)
_MASK_KEY, _DROPOUT_KEY, _STAGE_KEY, _STRAND_KEY = range(4)


@flax.struct.dataclass
class TrainState:
    """All that a checkpoint holds."""

    step: jax.Array  # int32, updates done
    params: dict  # float32
    opt_state: optax.OptState
    key: jax.Array  # uint32 (2,), the run's key; derived from, never advanced
    curriculum: CurriculumState
    ranks: LearnedRanks | None = None  # where `masking.ranks` is "learned"


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    model: heads.MaskedLM,
    transform: optax.GradientTransformation,
    ranks_V: np.ndarray,
    config: Config,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Returns the state after one update, and metrics summed over all devices.

    Args:
      state: replicated.
      batch: this device's part: bases (A, R, M, N), index (A, R, M).
      ranks_V: int32 (4**k,), PMI ranks.

    Returns:
      The new state, and float32 scalars: loss_sum (nats), terms (that it is a sum of: masked
      tokens, or hidden bases), right, predicted, eligible, dropped_positions, hidden_covered,
      bases, padding (positions), hard (0 or 1), grad_norm (before clipping), budget.
    """
    train_key = jax.random.fold_in(jax.random.wrap_key_data(state.key), _TRAIN_KEY)
    step_key = jax.random.fold_in(train_key, state.step)
    stage_key = jax.random.fold_in(step_key, _STAGE_KEY)
    hard = curriculum.is_hard(state.curriculum, stage_key, state.step, config=config)
    budget = curriculum.budget(state.curriculum, hard, config)
    flat = _on_drawn_strands(step_key, masked_rows.merge_axes(batch), config)
    masked = masked_rows.mask_batch(
        jax.random.fold_in(step_key, _MASK_KEY),
        flat,
        hard,
        budget,
        strategies=curriculum.strategies(config.curriculum),
        ranks_V=_ranks_of(state, ranks_V),
        config=config,
        growth=_growth(state.step, config),
        objective=config.masking.objective,
    )
    rows = masked_rows.lay_in_rows(masked)
    sums_of = functools.partial(losses.token_sums, by_kmer=state.ranks is not None)
    parts = rows, _dropout_keys(step_key, flat.index, config)
    if config.masking.objective == "base":
        sums_of, parts = losses.base_sums, (*parts, flat.bases, masked)
    most = masked_rows.max_predictions(config, batch.index.shape[1])
    loss_sums = functools.partial(sums_of, model=model, max_predictions=most)
    nothing = losses.nothing(0 if state.ranks is None else len(ranks_V))
    (loss, counts), grads = _accumulated(loss_sums, nothing, state.params, parts, len(batch.index))
    counts["padding"] = (rows.ids == vocabulary.PAD).sum(dtype=jnp.int32)
    sums = masked_rows.mask_sums(flat, masked, config) | {"loss_sum": loss}
    sums |= jax.tree.map(lambda count: count.astype(jnp.float32), counts)
    sums, grads = jax.lax.psum((sums, grads), parallel.AXIS)
    scale = 1 / jnp.maximum(sums["terms"], 1)
    grads = jax.tree.map(lambda grad: grad * scale, grads)
    state, sums = _with_ranks(state, sums)
    return _updated(state, grads, hard, transform), sums | {
        "hard": hard.astype(jnp.float32),
        "grad_norm": optax.tree.norm(grads),
        "budget": budget,
    }


def _on_drawn_strands(step_key: jax.Array, batch: Batch, config: Config) -> Batch:
    """Returns the batch with each window on the strand that the step's key and its index draw."""
    if not config.data.reverse_complement:
        return batch
    key = jax.random.fold_in(step_key, _STRAND_KEY)
    fold_each = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (None, 0))
    is_reverse_RM = jax.vmap(jax.vmap(jax.random.bernoulli))(fold_each(key, batch.index))
    other_RMN = vocabulary.reverse_complement(batch.bases)
    return batch._replace(bases=jnp.where(is_reverse_RM[:, :, None], other_RMN, batch.bases))


def _accumulated(
    loss_sums: Callable[..., losses.Sums],
    nothing: losses.Sums,
    params: dict,
    rows: tuple,
    num_parts: int,
) -> tuple[losses.Sums, dict]:
    """Returns the sums of a loss and their gradients, over equal parts of the rows."""
    differentiate = jax.value_and_grad(loss_sums, has_aux=True)

    def add(totals: tuple, part: tuple) -> tuple[tuple, None]:
        return jax.tree.map(jnp.add, totals, differentiate(params, *part)), None

    parts = jax.tree.map(lambda x: x.reshape(num_parts, -1, *x.shape[1:]), rows)
    return jax.lax.scan(add, (nothing, jax.tree.map(jnp.zeros_like, params)), parts)[0]


def _with_ranks(state: TrainState, sums: dict) -> tuple[TrainState, dict[str, jax.Array]]:
    """Returns the state that has learned from the losses of k-mers, and the sums without them."""
    if state.ranks is None:
        return state, sums
    ranks = learned_ranks.update(state.ranks, sums["loss_V"], sums["count_V"])
    return state.replace(ranks=ranks), {n: x for n, x in sums.items() if not n.endswith("_V")}


def _ranks_of(state: TrainState, ranks_V: np.ndarray) -> jax.Array:
    """Returns the ranks that masks go by, int32 (4**k,): the run's own, or the table's."""
    return jnp.asarray(ranks_V) if state.ranks is None else state.ranks.rank_V


@jax.named_scope("optimizer")
def _updated(
    state: TrainState, grads: dict, hard: jax.Array, transform: optax.GradientTransformation
) -> TrainState:
    """Returns the state after one update with gradients of the mean loss."""
    with jax.numpy_dtype_promotion("standard"):  # optax relies on it
        updates, opt_state = transform.update(grads, state.opt_state, state.params)
    hard_steps = state.curriculum.hard_steps + hard.astype(jnp.int32)
    return state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        opt_state=opt_state,
        curriculum=state.curriculum.replace(hard_steps=hard_steps),
    )


def _growth(step: jax.Array, config: Config) -> jax.Array:
    """Returns which of `masking.NUM_GROWTHS` equal parts of the run the step is in."""
    parts = masking_strategies.NUM_GROWTHS
    begins = [-(-part * config.num_steps // parts) for part in range(1, parts)]
    return (step >= jnp.array(begins, jnp.int32)).sum(dtype=jnp.int32)


def _dropout_keys(step_key: jax.Array, index_RM: jax.Array, config: Config) -> jax.Array | None:
    """Returns one dropout key per row, that of its first window; None where nothing is dropped."""
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
    model: heads.MaskedLM,
    ranks_V: np.ndarray,
    config: Config,
) -> dict[str, jax.Array]:
    """Returns the token loss's loss_sum and the mask sums over all devices, under fixed masks.

    Whatever the objective, tokens are masked and scored, so that perplexities compare.

    The key is the run's, not the step's: the same windows are masked alike at
    every evaluation of one strategy and budget, so that a change of perplexity is
    a change of the model.

    Args:
      state: replicated.
      batch: this device's part: bases (1, R, M, N), index (1, R, M).
      which: int32 scalar, index into `eval_strategies(config)`.
      ranks_V: int32 (4**k,), PMI ranks.
    """
    flat = masked_rows.merge_axes(batch)
    masked = eval_masks(
        state.key,
        flat,
        which,
        state.curriculum.budget,
        ranks_V=_ranks_of(state, ranks_V),
        config=config,
        growth=_growth(state.step - 1, config),
    )
    room = masked_rows.max_predictions(config, flat.index.shape[0])
    loss, counts = losses.token_sums(
        state.params, masked_rows.lay_in_rows(masked), None, model=model, max_predictions=room
    )
    sums = masked_rows.mask_sums(flat, masked, config)
    sums |= {"loss_sum": loss, "right": counts["right"].astype(jnp.float32)}
    return jax.lax.psum(sums, parallel.AXIS)


def eval_masks(
    key: jax.Array,
    batch: Batch,
    which: jax.Array,
    budget: jax.Array,
    *,
    ranks_V: np.ndarray | jax.Array,
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
      growth: of `masking.random_mask`.
    """
    strategies = eval_strategies(config)
    is_random = which == len(strategies) - 1
    return masked_rows.mask_batch(
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
    config: Config,
    model: heads.MaskedLM,
    transform: optax.GradientTransformation,
    ranks_V: np.ndarray,
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
        ranks=learned_ranks.init(ranks_V) if config.masking.ranks == "learned" else None,
    )


def programs(
    config: Config, ranks_V: np.ndarray, devices: parallel.Devices = None
) -> tuple[Callable[[], TrainState], Callable, Callable]:
    """Returns what makes the initial state, the train program and the eval program.

    Args:
      config: the run's config.
      ranks_V: int32 (4**k,), PMI ranks.
      devices: to compile for; None = all that are at hand.
    """
    platform = hardware.platform_of(devices) if devices else None
    network = hardware.resolve(config.model, platform)
    model = heads.MaskedLM(network, config.tokens)
    transform = optimizer.make(config)
    shared = {"model": model, "ranks_V": ranks_V, "config": config}
    train = functools.partial(train_step, transform=transform, **shared)
    evaluate = functools.partial(eval_step, **shared)
    return (
        functools.partial(init_state, config, model, transform, ranks_V),
        parallel.train_program(train, devices),
        parallel.eval_program(evaluate, devices),
    )


def make(config: Config, ranks_V: np.ndarray) -> tuple[TrainState, Callable, Callable]:
    """Returns the initial state (replicated), the train program and the eval program."""
    init, train, evaluate = programs(config, ranks_V)
    return parallel.replicate(init()), train, evaluate
