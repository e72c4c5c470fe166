"""PMI ranks by token, and the best of a sequence: a look-up and a top-k of static shape.

For one sequence; callers vmap. Axes: L token positions, V k-mers.
"""

import jax
import jax.numpy as jnp

from cmgems_jax.genome import vocabulary

INELIGIBLE_RANK = 4**vocabulary.MAX_K + 1


def token_ranks(ids_L: jax.Array, ranks_V: jax.Array, eligible_L: jax.Array) -> jax.Array:
    """Returns the PMI rank of the token at each position, `INELIGIBLE_RANK` where not eligible.

    By token, not by position: the released research code looks the table up by
    the position in the sequence, and so masks the same positions everywhere.
    `ranks_V` is int32 (4**k,), the rank of every k-mer by its code, 1 = best.
    """
    code_L = jnp.where(eligible_L, ids_L - vocabulary.NUM_SPECIAL, 0)
    return jnp.where(eligible_L, ranks_V[code_L], INELIGIBLE_RANK)


def position_ranks(ranks_V: jax.Array, eligible_L: jax.Array) -> jax.Array:
    """Returns the rank of the k-mer whose code is the position: the released code's defect.

    Kept as a control of the studies: it masks by a rank that has nothing to do with the
    token there, and so the same positions in every sequence. Shapes as in `token_ranks`.
    """
    position_L = jnp.arange(eligible_L.shape[0], dtype=jnp.int32)
    rank_L = ranks_V[position_L % ranks_V.shape[0]]  # small k: fewer k-mers than positions
    return jnp.where(eligible_L, rank_L, INELIGIBLE_RANK)


def lowest(value_L: jax.Array, count: jax.Array) -> jax.Array:
    """Returns where the `count` lowest values are, bool (L,), ties to the earlier position.

    A bisection on the distinct keys value * L + position: exact, of static
    shape whatever `count`, and faster on every device than a sort.

    Args:
      value_L: int32 (L,), in [0, INELIGIBLE_RANK]; L below 32,766.
      count: int32 scalar; all positions where it is L or more.
    """
    length = value_L.shape[0]
    largest = (INELIGIBLE_RANK + 1) * length
    assert largest < 2**31 - 1, f"{length} positions overflow the 32-bit keys"
    key_L = value_L * length + jnp.arange(length, dtype=jnp.int32)

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Keeps count(key < low) <= count < count(key < high)."""
        low, high = bounds
        middle = low + (high - low) // 2
        fits = (key_L < middle).sum(dtype=jnp.int32) <= count
        return jnp.where(fits, middle, low), jnp.where(fits, high, middle)

    bounds = (jnp.int32(0), jnp.int32(largest + 1))
    low, _ = jax.lax.fori_loop(0, (largest + 1).bit_length(), halve, bounds)
    return key_L < low


def lowest_apart(
    rank_L: jax.Array, eligible_L: jax.Array, count: jax.Array, min_distance: int
) -> jax.Array:
    """Returns the `count` best eligible tokens of which no two are nearer than `min_distance`."""
    position_L = jnp.arange(rank_L.shape[0], dtype=jnp.int32)

    def unfinished(carry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        chosen_L, free_L, left = carry
        return (left > 0) & free_L.any()

    def choose(
        carry: tuple[jax.Array, jax.Array, jax.Array],
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        chosen_L, free_L, left = carry
        best = jnp.where(free_L, rank_L, INELIGIBLE_RANK + 1).argmin().astype(jnp.int32)
        near_L = jnp.abs(position_L - best) < min_distance
        return chosen_L | (position_L == best), free_L & ~near_L, left - 1

    start = (jnp.zeros_like(eligible_L), eligible_L, jnp.asarray(count, jnp.int32))
    return jax.lax.while_loop(unfinished, choose, start)[0]
