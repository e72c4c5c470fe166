"""The posterior of hidden bases: the unit in which any k, stride and masking can be compared.

A base is hidden when every token that covers it is [MASK]. Each of these tokens gives it four
probabilities, by summing those of the k-mers with a letter at the base's offset; the posterior
is the mean over the tokens. Letters are in the vocabulary's order, A T C G. Logs are of numbers
above zero, so that neither they nor their gradients are infinite.

Axes: B rows of one window each, N bases, T k-mers of a window, L = T + 2 token positions, H
hidden bases of a row, P predicted positions of all rows, V vocabulary, K = k offsets in a
k-mer, A the four letters.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from cmgems_jax.genome import vocabulary
from cmgems_jax.model import heads
from cmgems_jax.runtime import parallel

_NOTHING = -1e30  # log of no probability, finite for the gradient's sake


def letter_log_probabilities(logits_PV: jax.Array, k: int) -> jax.Array:
    """Returns the log probabilities of the letters at every offset of predicted k-mers.

    Special ids are left out of the softmax. The sums over k-mers are one product with a matrix of
    0 and 1, which matrix units do faster than a tree of log-sum-exps (docs/method.md).

    Args:
      logits_PV: V = 5 + 4**k.
      k: bases per token.

    Returns:
      float32 (P, K, A), normalised over A; at least log(tiny) - k log(4), where float32 ends.
    """
    is_kmer_V = np.arange(logits_PV.shape[1]) >= vocabulary.NUM_SPECIAL
    logits_PV = jnp.where(is_kmer_V, logits_PV.astype(jnp.float32), _NOTHING)
    largest_P1 = jax.lax.stop_gradient(logits_PV.max(axis=1, keepdims=True))
    weights_PV = jnp.exp(logits_PV - largest_P1)
    sums_PX = jnp.dot(weights_PV, _letters_of_tokens(k), precision=jax.lax.Precision.HIGHEST)
    log_PKA = jnp.log(jnp.maximum(sums_PX, jnp.finfo(jnp.float32).tiny)).reshape(-1, k, 4)
    return jax.nn.log_softmax(log_PKA, axis=2)


def _letters_of_tokens(k: int) -> np.ndarray:
    """Returns float32 (V, K * A): 1 where a token has a letter at an offset; specials have none."""
    digits_XK = np.arange(4**k)[:, None] // 4 ** np.arange(k)[::-1] % 4  # the first base leads
    is_letter_XKA = np.eye(4, dtype=np.float32)[digits_XK]
    return np.pad(is_letter_XKA.reshape(4**k, 4 * k), ((vocabulary.NUM_SPECIAL, 0), (0, 0)))


def most_touching(num_bases: int, k: int, stride: int = 1) -> int:
    """Returns how many tokens touch a run of so many bases at most: 2k-1 for k bases, stride 1."""
    return math.ceil((num_bases + k - 1) / stride)


def touching(hidden_BN: jax.Array, k: int, stride: int = 1) -> jax.Array:
    """Returns bool (B, T): the k-mers that cover any of the bases in bool (B, N), N >= k."""
    span = (vocabulary.num_tokens(hidden_BN.shape[1], k, stride) - 1) * stride + 1
    touches_BT = jnp.zeros_like(hidden_BN[:, :span:stride])
    for offset in range(k):
        touches_BT |= hidden_BN[:, offset : offset + span : stride]
    return touches_BT


def covered(tokens_BT: jax.Array, *, k: int, stride: int = 1) -> jax.Array:
    """Returns bool (B, N): the bases that any of the k-mers in bool (B, T) covers."""
    planes = [_spread(tokens_BT, offset, k, stride, False) for offset in range(k)]
    return jnp.stack(planes).any(axis=0)


def mean_over_tokens(log_values_PK: jax.Array, masked_BT: jax.Array, stride: int = 1) -> jax.Array:
    """Returns log of the mean of exp(values) over the masked tokens that cover each base.

    Args:
      log_values_PK: float32 (P, K, ...), at every offset of the masked tokens, in the order of
        `masked_BT`; what stands behind the last is not used.
      masked_BT: bool (B, T).
      stride: bases between token starts.

    Returns:
      float32 (B, N, ...), N = the bases that T tokens cover. About -1e30 where no masked token
      covers the base, NaN where P has no room for one that does.
    """
    k, trailing = log_values_PK.shape[1], log_values_PK.shape[2:]
    slot_BT = jnp.cumsum(masked_BT.ravel(), dtype=jnp.int32).reshape(masked_BT.shape) - 1
    slot_BT = jnp.where(masked_BT, slot_BT, log_values_PK.shape[0])  # out of bounds: no gradient
    values_BTK = log_values_PK.at[slot_BT].get(mode="fill", fill_value=jnp.nan)
    masked_BTK = jnp.broadcast_to(
        masked_BT.reshape(*masked_BT.shape, *[1] * (1 + len(trailing))), values_BTK.shape
    )
    values_BTK = jnp.where(masked_BTK, values_BTK, _NOTHING)
    counts_BTK = masked_BTK.astype(jnp.int32)
    count_BN = sum(_spread(counts_BTK[:, :, offset], offset, k, stride, 0) for offset in range(k))
    planes = [_spread(values_BTK[:, :, offset], offset, k, stride, _NOTHING) for offset in range(k)]
    sum_BN = jax.nn.logsumexp(jnp.stack(planes), axis=0)
    return sum_BN - jnp.log(jnp.maximum(count_BN, 1).astype(jnp.float32))


def _spread(
    value_BT: jax.Array, offset: int, k: int, stride: int, fill: float | int | bool
) -> jax.Array:
    """Returns (B, N, ...): every token's value at the base at an offset in it, `fill` elsewhere."""
    edges = [(0, 0, 0), (offset, k - 1 - offset, stride - 1), *[(0, 0, 0)] * (value_BT.ndim - 2)]
    return jax.lax.pad(value_BT, jnp.asarray(fill, value_BT.dtype), edges)


def log_posterior(
    params: dict,
    bases_BN: jax.Array,
    hidden_BH: jax.Array,
    *,
    model: heads.MaskedLM,
    room: int | None = None,
) -> jax.Array:
    """Returns the log posteriors of hidden bases given all the others, pure and jittable.

    Every token that touches a hidden base is masked, one with an ambiguous base (N) too, so an
    N can be asked for. All hidden bases of a row are hidden at once; each has its own marginal.

    Args:
      params: of `model`.
      bases_BN: uint8, N >= k; `vocabulary.PADDING` behind the end of a shorter window.
      hidden_BH: int32, numbers of bases in their window; -1 = none.
      model: its tokens give k and stride.
      room: masked tokens per row, on the mean of the rows, static; None = enough for any
        hidden bases, of which those close to each other need less (`most_touching`).

    Returns:
      float32 (B, H, A). NaN at -1, at bases that no token covers (in the padding, or behind
      the last token where the stride is above 1), and for what exceeds `room`.
    """
    k, stride = model.tokens.k, model.tokens.stride
    num_rows, num_bases = bases_BN.shape
    row_B1 = jnp.arange(num_rows)[:, None]
    base_BH = jnp.where(hidden_BH < 0, num_bases, hidden_BH)  # out of bounds: dropped
    hidden_BN = jnp.zeros(bases_BN.shape, bool).at[row_B1, base_BH].set(True, mode="drop")

    ids_BL = vocabulary.model_ids(bases_BN, k, stride)
    masked_BT = touching(hidden_BN, k, stride)
    masked_BT &= vocabulary.tokenize(bases_BN, k, stride) != vocabulary.PAD
    masked_BL = jnp.pad(masked_BT, ((0, 0), (1, 1)))
    room = min(masked_BT.shape[1], room or hidden_BH.shape[1] * most_touching(1, k, stride))
    find = functools.partial(jnp.nonzero, size=num_rows * room, fill_value=0)
    positions_P = find(masked_BL.ravel())[0].astype(jnp.int32)
    logits_PV = model.apply(
        {"params": params}, jnp.where(masked_BL, vocabulary.MASK, ids_BL), positions_P
    )
    log_mean_BNA = mean_over_tokens(letter_log_probabilities(logits_PV, k), masked_BT, stride)
    posterior_BHA = log_mean_BNA.at[row_B1, base_BH].get(mode="fill", fill_value=jnp.nan)
    return jnp.where(posterior_BHA <= _NOTHING / 2, jnp.nan, posterior_BHA)


def program(
    model: heads.MaskedLM, params: dict, *, room: int | None = None
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Returns `(bases_BN, hidden_BH) -> float32 (B, H, A)` of host arrays, on all local devices.

    `log_posterior`, compiled once per shape; B is a multiple of the local devices. For many
    rows with a progress bar: `parallel.map_rows(program, bases, hidden, batch_size=...)`.
    """
    return parallel.rows_program(functools.partial(log_posterior, model=model, room=room), params)
