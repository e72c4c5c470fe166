"""What the model sees of masked tokens, and how many bases that hides.

For one sequence, pure and of static shape; callers vmap. Axis L: token positions. A token
has `k` bases, and neighbouring ones begin `stride` bases apart.
"""

import jax
import jax.numpy as jnp

from cmgems_jax.genome import vocabulary

MASK_SHARE, REPLACE_SHARE = 0.8, 0.1


def corrupt(
    key: jax.Array,
    ids_L: jax.Array,
    masked_L: jax.Array,
    *,
    k: int,
    stride: int = 1,
    by: str = "token",
) -> jax.Array:
    """Returns the ids that the model sees, int32 (L,).

    Of `masked_L` 80 % are [MASK], 10 % random k-mers and 10 % kept. `by="token"` samples for
    each token (BERT). "run" samples once for each maximal run of masked tokens and replaces
    it by the k-mers of one random stretch of bases: a kept token would show its neighbours
    the hidden bases, and a random one be recognised by not overlapping them (SPEC: corruption).
    """
    fate_key, base_key = jax.random.split(key)
    length = ids_L.shape[0]
    fate_L = jax.random.uniform(fate_key, (length,))
    if by == "run":
        starts_L = masked_L & ~jnp.pad(masked_L[:-1], (1, 0), constant_values=False)
        position_L = jnp.arange(length, dtype=jnp.int32)
        fate_L = fate_L[jax.lax.cummax(jnp.where(starts_L, position_L, 0))]
        shape = (vocabulary.num_bases(length, k, stride),)
        bases = jax.random.randint(base_key, shape, 0, 4, jnp.uint8)
        replacement_L = vocabulary.tokenize(bases, k, stride)
    else:
        low, high = vocabulary.NUM_SPECIAL, vocabulary.size(k)
        replacement_L = jax.random.randint(base_key, (length,), low, high, jnp.int32)
    hidden_L = jnp.where(fate_L < MASK_SHARE, vocabulary.MASK, replacement_L)
    changed_L = masked_L & (fate_L < MASK_SHARE + REPLACE_SHARE)
    return jnp.where(changed_L, hidden_L, ids_L)


def hide_bases(
    ids_L: jax.Array, masked_L: jax.Array, *, k: int, stride: int = 1
) -> tuple[jax.Array, jax.Array]:
    """Returns what the model sees, int32 (L,), and what is masked, bool (L,): objective "base".

    A base that a mask hides is touched by masked tokens alone, so of `masked_L` remain those that
    touch one; a token of which every base is shown elsewhere would teach copying. All are [MASK].
    """
    eligible_L = ids_L >= vocabulary.NUM_SPECIAL
    seen_L = jnp.where(masked_L, vocabulary.MASK, ids_L)
    masked_L &= hidden_bases(ids_L, seen_L, eligible_L, k=k, stride=stride) > 0
    return jnp.where(masked_L, vocabulary.MASK, ids_L), masked_L


def hidden_bases(
    ids_L: jax.Array, corrupted_L: jax.Array, eligible_L: jax.Array, *, k: int, stride: int = 1
) -> jax.Array:
    """Returns how many hidden bases the token at each position covers: int32 (L,), 0..k.

    A base is hidden when no k-mer that covers it is shown, neither unmasked nor
    masked but kept. The yardstick across strategies (`nats_per_hidden_base`). 0 where not
    eligible; `corrupted_L` is what the model sees of `ids_L`.
    """
    shown_L = eligible_L & (corrupted_L == ids_L)
    gaps = [(k - 1, k - 1, stride - 1)]
    padded = jax.lax.pad(shown_L, False, gaps)
    num_bases = vocabulary.num_bases(ids_L.shape[0], k, stride)
    visible_N = jnp.zeros((num_bases,), bool)
    for offset in range(k):
        visible_N |= padded[k - 1 - offset : k - 1 - offset + num_bases]
    count_L = jnp.zeros_like(ids_L)
    for offset in range(k):
        hidden_L = ~visible_N[offset : offset + num_bases - k + 1 : stride]
        count_L += hidden_L.astype(jnp.int32)
    return jnp.where(eligible_L, count_L, 0)
