"""Whether a fused kernel does what the plain form does, asked of the device that runs it.

Kernels differ by card and by library. One that attends across the windows of a row, or
rounds too much, trains a worse model and says nothing; so the first start asks.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from cmgems_jax.model import attention

_SHAPE = (2, 256, 2, 64)  # rows, positions, heads, width
_ENDS = (100, 220)  # of the two windows; the rest of a row is padding
# A bfloat16 has 8 bits: sums of rounded products come within a few 1/256 of the largest value.
_LARGEST_ERROR = 0.03


def measure(attend: Callable[..., jax.Array], dtype: jnp.dtype) -> tuple[float, float]:
    """Returns the error of a kernel, and what leaks between the windows of a row.

    Args:
      attend: (q, k, v, segment_BL) -> the attended values.
      dtype: of its operands.

    Returns:
      The largest difference to the plain form in float32, of values and gradients, as a
      share of the largest value; and the largest trace of another window, which must be 0.
    """
    rng = np.random.default_rng(0)
    exact = [rng.normal(size=_SHAPE).astype(np.float32) for _ in range(4)]
    *qkv, given = (jnp.asarray(x, dtype) for x in exact)
    window_L = np.searchsorted(_ENDS, np.arange(_SHAPE[1]), side="right").astype(np.int32)
    segment_BL = jnp.asarray(np.tile(window_L, (_SHAPE[0], 1)))
    is_first = jnp.asarray(window_L == 0)[None, :, None, None]
    given = jnp.where(is_first, given, 0)
    plain = functools.partial(attention.attend, way=attention.PLAIN)

    @functools.partial(jax.jit, static_argnums=0)
    def run(form: Callable, qkv: list, given: jax.Array) -> tuple[jax.Array, tuple]:
        values, back = jax.vjp(lambda *operands: form(*operands, segment_BL), *qkv)
        return values, back(given.astype(values.dtype))

    values, gradients = run(attend, qkv, given)
    as_float32 = [x.astype(jnp.float32) for x in qkv]
    expected, expected_gradients = run(plain, as_float32, given.astype(jnp.float32))
    pairs = [(values, expected), *zip(gradients, expected_gradients, strict=True)]
    error = max(float(abs(x.astype(y.dtype) - y).max() / abs(y).max()) for x, y in pairs)
    others_moved, _ = run(attend, [jnp.where(is_first, x, -x) for x in qkv], given)
    leaks = [jnp.where(is_first, values - others_moved, 0)]
    leaks += [jnp.where(is_first, 0, gradient) for gradient in gradients]
    return error, max(float(abs(leak).max()) for leak in leaks)


@functools.cache
def fault(way: str) -> str:
    """Returns what is wrong with a way of attention on the device at hand; "" for nothing."""
    try:
        # A model may ask while it is traced; libraries mix dtypes freely.
        with jax.ensure_compile_time_eval(), jax.numpy_dtype_promotion("standard"):
            error, leak = measure(functools.partial(attention.attend, way=way), jnp.bfloat16)
    except Exception as failure:  # of a compiler, a driver or a library: the plain form runs
        return f"fails here ({str(failure).strip().splitlines()[0]})"
    if leak:
        return f"lets windows of a row see each other (by {leak:.2g})"
    if not error <= _LARGEST_ERROR:
        return f"differs from the plain form by {error:.2g} of the largest value"
    return ""
