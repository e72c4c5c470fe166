"""Softmax attention confined to segments, whose scores need not leave the chip.

XLA writes the scores of all heads to memory several times over, forward and
backward; fused kernels compute them tile by tile, and again in the backward pass
(Rabe & Staats 2021, Dao et al. 2022). Each kind of device has its own: a TPU Pallas'
splash attention, a GPU cuDNN's, and a CPU takes as many heads at a time as fit its
cache: at LOGO's head width of 32 the scores are most of a layer's time there.
Axes: B batch, Q queries, L keys, H heads, K head width.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

BY_HEADS, CUDNN, PLAIN, SPLASH = "by_heads", "cudnn", "plain", "splash"
FUSED = {"cpu": BY_HEADS, "gpu": CUDNN, "tpu": SPLASH}  # by platform

_CACHED_SCORES = 2**18  # float32, 1 MB: a core's second-level cache
_HIDDEN = -1e9  # score of a key in another segment
_LANES, _LARGEST_BLOCK = 128, 512  # of a TPU: positions of a tile of scores, least and most
_CUDNN_WIDTHS = (8, 128)  # a head's width is a multiple of the first, up to the second
_float32_product = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)


def attend(
    q_BQHK: jax.Array,
    k_BLHK: jax.Array,
    v_BLHK: jax.Array,
    segment_BL: jax.Array,
    *,
    way: str,
    interpret: bool = False,
) -> jax.Array:
    """Returns the attended values (B, Q, H, K), in the dtype of the values.

    What a kernel does not take goes the plain way: few queries of many positions
    (their scores are small) and, for cuDNN, float32, odd lengths and some widths.

    Args:
      q_BQHK: queries of the first Q positions.
      k_BLHK: keys.
      v_BLHK: values.
      segment_BL: int32, 0 or more; a query attends to the keys of its own segment.
      way: BY_HEADS, CUDNN, PLAIN or SPLASH, of `hardware.resolve`.
      interpret: runs SPLASH on any device, slowly.
    """
    num_queries, num_keys, width = q_BQHK.shape[1], k_BLHK.shape[1], q_BQHK.shape[3]
    if way == SPLASH and num_queries == num_keys:
        return _splash(q_BQHK, k_BLHK, v_BLHK, segment_BL, interpret)
    is_own_BQL = segment_BL[:, :num_queries, None] == segment_BL[:, None, :]
    if way == BY_HEADS:
        return _by_heads(q_BQHK, k_BLHK, v_BLHK, jnp.where(is_own_BQL, 0.0, _HIDDEN))
    unit, widest = _CUDNN_WIDTHS
    is_taken = (
        way == CUDNN
        and q_BQHK.dtype == jnp.bfloat16
        and num_queries == num_keys
        and num_keys % 2 == 0
        and width % unit == 0
        and width <= widest
    )
    return jax.nn.dot_product_attention(
        q_BQHK,
        k_BLHK,
        v_BLHK,
        mask=is_own_BQL[:, None],
        implementation="cudnn" if is_taken else "xla",
    )


def _splash(
    q_BLHK: jax.Array, k_BLHK: jax.Array, v_BLHK: jax.Array, segment_BL: jax.Array, interpret: bool
) -> jax.Array:
    """`attend` by Pallas' kernel for TPUs; rows are padded to whole tiles."""
    length, width = q_BLHK.shape[1], q_BLHK.shape[3]
    padded = -(-length // _LANES) * _LANES
    kernel = _splash_kernel(q_BLHK.shape[2], padded, interpret)
    behind = ((0, 0), (0, padded - length))
    segment_BL = jnp.pad(segment_BL, behind, constant_values=-1)
    scale = jnp.asarray(width**-0.5, q_BLHK.dtype)
    heads = (
        jnp.einsum("blhk->bhlk", jnp.pad(x, (*behind, (0, 0), (0, 0))))
        for x in (_side_by_side(q_BLHK, scale), _side_by_side(k_BLHK), _side_by_side(v_BLHK))
    )
    context_BHLK = jax.vmap(kernel)(*heads, _segment_ids(segment_BL))
    return jnp.einsum("bhlk->blhk", context_BHLK[:, :, :length]).astype(v_BLHK.dtype)


def _side_by_side(x_BLHK: jax.Array, scale: jax.Array | int = 1) -> jax.Array:
    """Returns x times `scale`, computed where the heads of a position lie side by side.

    Else a TPU's compiler scales, and sums the gradients of the projections' biases, where a head
    takes a row of 128 lanes by itself: an eighth of the attention's cycles (benchmarks/NOTES.md).
    """
    x_BLD = x_BLHK.reshape(*x_BLHK.shape[:2], -1) * scale
    return jax.lax.optimization_barrier(x_BLD).reshape(x_BLHK.shape)


def _segment_ids(segment_BL: jax.Array) -> Any:
    """Returns the segments of queries and keys, as the kernel takes them."""
    from jax.experimental.pallas.ops.tpu import splash_attention

    return splash_attention.SegmentIds(q=segment_BL, kv=segment_BL)


def _splash_kernel(num_heads: int, length: int, interpret: bool) -> Callable:
    """Returns the kernel for one row of `length` positions, a multiple of `_LANES`."""
    from jax.experimental.pallas.ops.tpu import splash_attention  # takes a second to import

    block = max(
        size
        for size in range(_LANES, min(length, _LARGEST_BLOCK) + 1, _LANES)
        if length % size == 0
    )
    # Every key is allowed by the mask; the segments hide the others.
    everything = splash_attention.MultiHeadMask(
        [splash_attention.FullMask((length, length))] * num_heads
    )
    return splash_attention.make_splash_mha_single_device(
        everything,
        block_sizes=splash_attention.BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            use_fused_bwd_kernel=True,
            # In memory a head of 64 by itself would take a row of 128 lanes.
            q_layout=splash_attention.QKVLayout.SEQ_MINOR,
            k_layout=splash_attention.QKVLayout.SEQ_MINOR,
            v_layout=splash_attention.QKVLayout.SEQ_MINOR,
        ),
        interpret=interpret,
    )


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
    return _float32_product(q_QK, k_LK.T) + bias_QL


def _head_forward(
    bias_QL: jax.Array, q_QK: jax.Array, k_LK: jax.Array, v_LK: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the attended values (Q, K), and the scores' log-sum-exp (Q,)."""
    scores_QL = _scores(bias_QL, q_QK, k_LK)
    largest_Q = scores_QL.max(axis=1)
    weights_QL = jnp.exp(scores_QL - largest_Q[:, None])
    sum_Q = weights_QL.sum(axis=1)
    context_QK = _float32_product(weights_QL.astype(v_LK.dtype), v_LK)
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
    dtype, product = q_QK.dtype, _float32_product
    weights_QL = jnp.exp(_scores(bias_QL, q_QK, k_LK) - log_sum_Q[:, None])
    # Small factors are transposed, never the scores: a CPU takes four times as long for those.
    values_LK = product(given_QK.T, weights_QL.astype(dtype)).T
    mean_Q = (given_QK * context_QK).sum(axis=1, dtype=jnp.float32)
    weight_grads_QL = product(given_QK, v_LK.T)
    scores_QL = (weights_QL * (weight_grads_QL - mean_Q[:, None])).astype(dtype)
    gradients = product(scores_QL, k_LK), product(q_QK.T, scores_QL).T, values_LK
    return tuple(gradient.astype(dtype) for gradient in gradients)
