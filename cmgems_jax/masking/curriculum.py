"""Which strategy masks now, how much, and when that changes.

The state is a small pytree inside the train state; `update` is pure and runs on
the host after each evaluation, `is_hard` inside the compiled step, where
`lax.cond` picks the strategy (Roy et al., ECAI 2024, section 3).
"""

import flax
import jax
import jax.numpy as jnp

from cmgems_jax.config import Config, CurriculumConfig

EASY, HARD = 0, 1


@flax.struct.dataclass
class CurriculumState:
    """Scalars; perplexities are those of the current strategy, or what else is watched."""

    stage: jax.Array  # int32, EASY or HARD
    budget: jax.Array  # float32, share of tokens to mask
    last_perplexity: jax.Array  # float32; NaN before the first evaluation of a strategy
    smallest_change: jax.Array  # float32, smallest change so far; inf before two evaluations
    hard_steps: jax.Array  # int32, steps masked by the hard strategy


def strategies(config: CurriculumConfig) -> tuple[str, str]:
    """Returns the (easy, hard) strategies of a curriculum."""
    return {
        "cm_gems": ("genemask", "global"),
        "cm_step": ("random", "global"),
        "hard_to_easy": ("global", "genemask"),
        "fixed": (config.strategy, config.strategy),
    }[config.name]


def strategy_name(state: CurriculumState, config: CurriculumConfig) -> str:
    """Returns the strategy of the state's stage."""
    return strategies(config)[int(state.stage)]


def init(config: Config) -> CurriculumState:
    """Returns the state before the first step."""
    return CurriculumState(
        stage=jnp.int32(EASY),
        budget=jnp.float32(config.masking.budget),
        last_perplexity=jnp.float32(jnp.nan),
        smallest_change=jnp.float32(jnp.inf),
        hard_steps=jnp.int32(0),
    )


def is_hard(
    state: CurriculumState, key: jax.Array, step: jax.Array, *, config: Config
) -> jax.Array:
    """Returns bool scalar: whether this step's batch uses the hard strategy.

    Only `cm_step` uses the step's key, with probability floor(100 * step / num_steps) / 100;
    the step is 0-based.
    """
    if config.curriculum.name != "cm_step":
        return state.stage == HARD
    return jax.random.uniform(key) < step_probability(step, config.num_steps)


def budget(state: CurriculumState, hard: jax.Array, config: Config) -> jax.Array:
    """Returns the share to mask in a batch, float32 scalar.

    `by_stage` goes by the batch's strategy (`hard`, see `is_hard`), since `cm_step` samples
    it anew for each batch.
    """
    if config.curriculum.budget_schedule != "by_stage":
        return state.budget
    easy_budget, hard_budget = config.masking.budget, config.curriculum.hard_budget
    return jnp.where(hard, jnp.float32(hard_budget), jnp.float32(easy_budget))


def step_probability(step: jax.Array, num_steps: int) -> jax.Array:
    """Returns floor(100 * step / num_steps) / 100, float32, in exact integer arithmetic."""
    first_step_of_percent = [-(-percent * num_steps // 100) for percent in range(1, 101)]
    passed = step >= jnp.array(first_step_of_percent, jnp.int32)
    return passed.sum().astype(jnp.float32) / 100


def change(
    last_perplexity: jax.Array, perplexity: jax.Array, config: CurriculumConfig
) -> jax.Array:
    """Returns |now - before|, divided by the perplexity before where the threshold is relative."""
    difference = jnp.abs(perplexity - last_perplexity)
    return difference / last_perplexity if config.threshold_kind == "relative" else difference


def update(
    state: CurriculumState, perplexity: float | jax.Array, config: CurriculumConfig
) -> CurriculumState:
    """Returns the state after an evaluation.

    Once the smallest change so far is below the threshold, `cm_gems` and
    `hard_to_easy` go to their second stage; where no stage is left, an
    `adaptive` budget grows, up to its maximum. Either change starts the history again, because
    perplexities of different masks cannot be compared. The perplexity is of the validation
    windows under the current strategy; a non-finite one changes nothing.
    """
    perplexity = jnp.asarray(perplexity, jnp.float32)
    difference = change(state.last_perplexity, perplexity, config)
    smallest = jnp.fmin(state.smallest_change, difference)
    stalled = smallest < config.threshold
    can_switch = config.name in ("cm_gems", "hard_to_easy")
    switches = stalled & (state.stage == EASY) & can_switch
    grown = jnp.minimum(state.budget + config.budget_step, config.budget_max)
    can_grow = (config.budget_schedule == "adaptive") & (grown > state.budget)
    grows = stalled & ~switches & can_grow

    budget = jnp.where(grows, grown, state.budget)
    if config.budget_schedule == "by_stage":
        budget = jnp.where(switches, jnp.float32(config.hard_budget), budget)
    restart = switches | grows
    updated = CurriculumState(
        stage=jnp.where(switches, jnp.int32(HARD), state.stage),
        budget=budget.astype(jnp.float32),
        last_perplexity=jnp.where(restart, jnp.float32(jnp.nan), perplexity),
        smallest_change=jnp.where(restart, jnp.float32(jnp.inf), smallest),
        hard_steps=state.hard_steps,
    )
    finite = jnp.isfinite(perplexity)
    return jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, state)
