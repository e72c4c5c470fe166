"""Softmax attention confined to segments, whose scores never leave the cache on a CPU.

XLA writes the scores of all heads to memory several times over, forward and
backward; at LOGO's head width of 32 that is most of a layer's time on a CPU. There the
heads are taken in turn, as many at a time as fit the cache, and the backward pass
computes the scores again from their saved log-sum (Rabe & Staats 2021, Dao et
al. 2022). Other devices have fused kernels of their own. Axes: B batch, Q queries,
L keys, H heads, K head width.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

_CACHED_SCORES = 2**18  # float32, 1 MB: a core's second-level cache
_HIDDEN = -1e9  # score of a key in another segment


def attend(
    q_BQHK: jax.Array, k_BLHK: jax.Array, v_BLHK: jax.Array, segment_BL: jax.Array
) -> jax.Array:
    """Returns the attended values (B, Q, H, K), in the dtype of the values.

    On a GPU this is XLA's masked softmax over the whole row. jax 0.10 and 0.11 give
    cuDNN's flash attention one sequence a row by its length; several windows reach it as
    a bias made of the mask (implementation="cudnn"), or by offsets in a private function.

    Args:
      q_BQHK: queries of the first Q positions.
      k_BLHK: keys.
      v_BLHK: values.
      segment_BL: int32; a query attends to the keys of its own segment.
    """
    is_own_BQL = segment_BL[:, : q_BQHK.shape[1], None] == segment_BL[:, None, :]
    if jax.default_backend() == "cpu":
        return _by_heads(q_BQHK, k_BLHK, v_BLHK, jnp.where(is_own_BQL, 0.0, _HIDDEN))
    return jax.nn.dot_product_attention(q_BQHK, k_BLHK, v_BLHK, mask=is_own_BQL[:, None])


def _by_heads(
    q_BQHK: jax.Array, k_BLHK: jax.Array, v_BLHK: jax.Array, bias_BQL: jax.Array
) -> jax.Array:
    """`attend`, a few heads at a time; the bias is added to the scores."""
    scaled_BQHK = q_BQHK * jnp.asarray(q_BQHK.shape[-1] ** -0.5, q_BQHK.dtype)
    heads = (jnp.einsum("blhk->bhlk", x) for x in (scaled_BQHK, k_BLHK, v_BLHK))
    return jnp.einsum("bhqk->bqhk", _attend_heads(*heads, bias_BQL))


@jax.custom_vjp
def _attend_heads(
    q_BHQK: jax.Array, k_BHLK: jax.Array, v_BHLK: jax.Array, bias_BQL: jax.Array
) -> jax.Array:
    """Returns (B, H, Q, K) for scaled queries."""
    return _over_heads(_head_forward, bias_BQL, q_BHQK, k_BHLK, v_BHLK)[0]


def _forward(
    q_BHQK: jax.Array, k_BHLK: jax.Array, v_BHLK: jax.Array, bias_BQL: jax.Array
) -> tuple[jax.Array, tuple]:
    """Returns the attended values, and what the backward pass needs."""
    operands = (q_BHQK, k_BHLK, v_BHLK)
    context_BHQK, log_sum_BHQ = _over_heads(_head_forward, bias_BQL, *operands)
    return context_BHQK, (bias_BQL, *operands, context_BHQK, log_sum_BHQ)


def _backward(saved: tuple, given_BHQK: jax.Array) -> tuple:
    """Returns the gradients of queries, keys and values; the bias needs none."""
    return (*_over_heads(_head_backward, *saved, given_BHQK), None)


_attend_heads.defvjp(_forward, _backward)


def _over_heads(function: Callable, bias_BQL: jax.Array, *operands_BH: jax.Array) -> Any:
    """Returns a function of one head for all of them, so many at a time as fit the cache."""

    def one_sequence(bias_QL: jax.Array, *operands_H: jax.Array) -> Any:
        one_head = functools.partial(function, bias_QL)
        return _mapped(one_head, _CACHED_SCORES // bias_QL.size, operands_H)

    num_heads, scores = operands_BH[0].shape[1], bias_BQL[0].size
    return _mapped(one_sequence, _CACHED_SCORES // (num_heads * scores), (bias_BQL, *operands_BH))


def _mapped(function: Callable, at_once: int, operands: tuple[jax.Array, ...]) -> Any:
    """Returns a function of the leading axis' entries, `at_once` of them at a time."""
    if at_once >= len(operands[0]):
        return jax.vmap(function)(*operands)
    batch_size = at_once if at_once > 1 else None
    return jax.lax.map(lambda entry: function(*entry), operands, batch_size=batch_size)


def _scores(bias_QL: jax.Array, q_QK: jax.Array, k_LK: jax.Array) -> jax.Array:
    """Returns the scores of one head: float32 (Q, L)."""
    return jnp.matmul(q_QK, k_LK.T, preferred_element_type=jnp.float32) + bias_QL


def _head_forward(
    bias_QL: jax.Array, q_QK: jax.Array, k_LK: jax.Array, v_LK: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the attended values (Q, K), and the scores' log-sum-exp (Q,)."""
    scores_QL = _scores(bias_QL, q_QK, k_LK)
    largest_Q = scores_QL.max(axis=1)
    weights_QL = jnp.exp(scores_QL - largest_Q[:, None])
    sum_Q = weights_QL.sum(axis=1)
    context_QK = jnp.matmul(weights_QL.astype(v_LK.dtype), v_LK, preferred_element_type=jnp.float32)
    return (context_QK / sum_Q[:, None]).astype(v_LK.dtype), largest_Q + jnp.log(sum_Q)


def _head_backward(
    bias_QL: jax.Array,
    q_QK: jax.Array,
    k_LK: jax.Array,
    v_LK: jax.Array,
    context_QK: jax.Array,
    log_sum_Q: jax.Array,
    given_QK: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the gradients of one head's queries, keys and values."""
    dtype = q_QK.dtype
    weights_QL = jnp.exp(_scores(bias_QL, q_QK, k_LK) - log_sum_Q[:, None])
    # Small factors are transposed, never the scores: a CPU takes four times as long for those.
    values_LK = jnp.matmul(given_QK.T, weights_QL.astype(dtype)).T
    mean_Q = (given_QK * context_QK).sum(axis=1, dtype=jnp.float32)
    wanted_QL = jnp.matmul(given_QK, v_LK.T, preferred_element_type=jnp.float32)
    scores_QL = (weights_QL * (wanted_QL - mean_Q[:, None])).astype(dtype)
    return jnp.matmul(scores_QL, k_LK), jnp.matmul(q_QK.T, scores_QL).T, values_LK
