"""The model's own difficulty in place of PMI: k-mers ranked by their loss, a control.

If masks by what the model finds hard teach no more than random spans, no ranking of k-mers
will (SPEC section 12). Axes: V k-mers, P predicted positions.
"""

import math

import flax
import jax
import jax.numpy as jnp

_KEPT = 0.99  # of the running mean, at every step


@flax.struct.dataclass
class LearnedRanks:
    """A part of the train state."""

    loss_V: jax.Array  # float32, nats, running mean of each k-mer's loss where it was masked
    rank_V: jax.Array  # int32, 1 = the largest loss, by the last evaluation


def init(ranks_V: jax.Array) -> LearnedRanks:
    """Returns the state before the first step: the given ranks, every k-mer as hard as any."""
    blind = math.log(len(ranks_V))
    return LearnedRanks(jnp.full(len(ranks_V), blind, jnp.float32), jnp.asarray(ranks_V, jnp.int32))


def sums_by_kmer(
    codes_P: jax.Array, losses_P: jax.Array, is_masked_P: jax.Array, num_kmers: int
) -> tuple[jax.Array, jax.Array]:
    """Returns the sum of the losses of each k-mer, float32 (V,), and their number, float32 (V,)."""
    zeros_V = jnp.zeros(num_kmers, jnp.float32)
    losses_P = jnp.where(is_masked_P, losses_P, 0)
    codes_P = jnp.where(is_masked_P, codes_P, 0)
    return (
        zeros_V.at[codes_P].add(losses_P),
        zeros_V.at[codes_P].add(is_masked_P.astype(jnp.float32)),
    )


def update(state: LearnedRanks, sum_V: jax.Array, count_V: jax.Array) -> LearnedRanks:
    """Returns the state after a step; what was not masked in it stays as it was."""
    mean_V = sum_V / jnp.maximum(count_V, 1)
    moved_V = _KEPT * state.loss_V + (1 - _KEPT) * mean_V
    return state.replace(loss_V=jnp.where(count_V > 0, moved_V, state.loss_V))


def ranked(state: LearnedRanks) -> LearnedRanks:
    """Returns the state after an evaluation: ranks by falling loss, ties by code."""
    order_V = jnp.argsort(-state.loss_V, stable=True)
    ranks_V = jnp.arange(1, len(order_V) + 1, dtype=jnp.int32)
    return state.replace(rank_V=jnp.zeros_like(ranks_V).at[order_V].set(ranks_V))
