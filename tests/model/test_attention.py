"""Every way of attention against the plain formula: values, gradients, no other window."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmgems_jax.model import attention, attention_check

by_heads = functools.partial(attention.attend, way=attention.BY_HEADS)
splash = functools.partial(attention.attend, way=attention.SPLASH, interpret=True)
xla = functools.partial(attention.attend, way=attention.PLAIN)
BATCH, LENGTH, HEADS, WIDTH = 3, 24, 4, 8


def plain(q_BQHK: jax.Array, k_BLHK: jax.Array, v_BLHK: jax.Array, segment_BL: jax.Array):
    """The textbook's attention, all scores at once."""
    scores_BHQL = jnp.einsum("bqhk,blhk->bhql", q_BQHK, k_BLHK) / jnp.sqrt(jnp.float32(WIDTH))
    segment_BQ = segment_BL[:, : q_BQHK.shape[1]]
    is_own_BQL = segment_BQ[:, :, None] == segment_BL[:, None, :]
    scores_BHQL = jnp.where(is_own_BQL[:, None], scores_BHQL, -jnp.inf)
    return jnp.einsum("bhql,blhk->bqhk", jax.nn.softmax(scores_BHQL), v_BLHK)


def operands(num_queries: int, seed: int = 0) -> tuple[jax.Array, ...]:
    """Returns random queries, keys, values, three segments a row, and a cotangent."""
    rng = np.random.default_rng(seed)
    q, k, v, given = (
        jnp.asarray(rng.normal(size=(BATCH, length, HEADS, WIDTH)) * 3, jnp.float32)
        for length in (num_queries, LENGTH, LENGTH, num_queries)
    )
    segment_BL = np.sort(rng.integers(0, 3, (BATCH, LENGTH)), axis=1).astype(np.int32)
    return q, k, v, jnp.asarray(segment_BL), given


@pytest.mark.parametrize("num_queries", [LENGTH, 1])
@pytest.mark.parametrize("cached_heads", [1, 3, HEADS, 2 * HEADS, 100])
def test_attention_and_its_gradients_are_the_plain_formulas(monkeypatch, cached_heads, num_queries):
    """However many heads are taken at a time; to float32 rounding of sums of 24 terms."""
    monkeypatch.setattr(attention, "_CACHED_SCORES", cached_heads * num_queries * LENGTH)
    q, k, v, segment_BL, given = operands(num_queries)
    found, back = jax.vjp(lambda *qkv: by_heads(*qkv, segment_BL), q, k, v)
    expected, plain_back = jax.vjp(lambda *qkv: plain(*qkv, segment_BL), q, k, v)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for gradient, plain_gradient in zip(back(given), plain_back(given), strict=True):
        np.testing.assert_allclose(gradient, plain_gradient, atol=1e-4)


def test_keys_of_other_segments_change_nothing_at_all():
    q, k, v, segment_BL, _ = operands(LENGTH)
    is_first = (segment_BL == 0)[:, :, None, None]
    far = jnp.where(is_first, k, 100 * k)
    before = by_heads(q, k, v, segment_BL)
    after = by_heads(q, far, jnp.where(is_first, v, -v), segment_BL)
    np.testing.assert_array_equal(jnp.where(is_first, after - before, 0), 0)


def test_attention_maps_over_draws():
    """As fine-tuning maps it: every entry equals its own call."""
    stacked = [jnp.stack(pair) for pair in zip(operands(LENGTH), operands(LENGTH, 1), strict=True)]
    mapped = jax.vmap(by_heads)(*stacked[:4])
    for entry in range(2):
        alone = by_heads(*(x[entry] for x in stacked[:4]))
        np.testing.assert_allclose(mapped[entry], alone, atol=1e-5)


def packed(length: int, dtype: jnp.dtype) -> tuple[jax.Array, ...]:
    """Returns q, k, v, segments and a cotangent of two rows: two windows each, and padding."""
    rng = np.random.default_rng(length)
    arrays = [jnp.asarray(rng.normal(size=(2, length, 2, 16)), dtype) for _ in range(4)]
    ends = ((length // 3, length - 5), (1, length // 2))
    segment_BL = np.stack([np.searchsorted(end, np.arange(length), side="right") for end in ends])
    return *arrays[:3], jnp.asarray(segment_BL, jnp.int32), arrays[3]


@pytest.mark.parametrize(
    "way, length, dtype, atol",
    [
        (splash, 128, jnp.float32, 1e-5),
        (splash, 200, jnp.float32, 1e-5),  # no multiple of a tile
        (splash, 256, jnp.bfloat16, 0.05),  # values of up to 4 with 8 bits
        (xla, 72, jnp.float32, 1e-5),
        (by_heads, 72, jnp.bfloat16, 0.05),
    ],
)
def test_packed_rows_agree_with_the_plain_formula_and_windows_do_not_meet(way, length, dtype, atol):
    """Values and gradients; what another window holds moves not a bit."""
    q, k, v, segment_BL, given = packed(length, dtype)
    in_first = (segment_BL == 0)[:, :, None, None]
    only_first = jnp.where(in_first, given, 0)

    @jax.jit
    def run(qkv, given):
        values, back = jax.vjp(lambda *operands: way(*operands, segment_BL), *qkv)
        return values, back(given)

    values, gradients = run((q, k, v), only_first)
    exact = [x.astype(jnp.float32) for x in (q, k, v)]
    scale = jnp.sqrt(jnp.float32(WIDTH / q.shape[-1]))  # `plain` knows one width
    wanted, back = jax.vjp(lambda q, k, v: plain(q * scale, k, v, segment_BL), *exact)
    np.testing.assert_allclose(values.astype(jnp.float32), wanted, atol=atol)
    for found, expected in zip(gradients, back(only_first.astype(jnp.float32)), strict=True):
        np.testing.assert_allclose(found.astype(jnp.float32), expected, atol=2 * atol)
        np.testing.assert_array_equal(jnp.where(in_first, 0, found), 0)
    moved, _ = run(tuple(jnp.where(in_first, x, 5 - x) for x in (q, k, v)), only_first)
    np.testing.assert_array_equal(jnp.where(in_first, values - moved, 0), 0)


def blind_to_windows(q: jax.Array, k: jax.Array, v: jax.Array, segment_BL: jax.Array):
    """A wrong kernel, as one was once shipped: it attends to the whole row."""
    return xla(q, k, v, jnp.zeros_like(segment_BL))


def test_the_start_up_check_passes_what_is_right():
    for way in (xla, by_heads, splash):
        with jax.numpy_dtype_promotion("standard"):  # jax.nn relies on it
            error, leak = attention_check.measure(way, jnp.bfloat16)
        assert error < 0.02 and leak == 0


@pytest.mark.parametrize(
    "wrong, complaint",
    [
        (blind_to_windows, "see each other"),
        (lambda q, k, v, segment_BL: xla(q, k, 1.1 * v, segment_BL), "differs from the plain"),
        (lambda *_: 1 / 0, "fails here (division by zero)"),
    ],
)
def test_the_start_up_check_catches_a_wrong_kernel(monkeypatch, wrong, complaint):
    attend = attention.attend

    def replaced(*operands, way, **settings):
        return wrong(*operands) if way == "broken" else attend(*operands, way=way, **settings)

    monkeypatch.setattr(attention, "attend", replaced)
    assert complaint in attention_check.fault.__wrapped__("broken")


def test_the_check_can_be_asked_while_a_model_is_traced():
    faults = []
    jax.jit(lambda x: (faults.append(attention_check.fault.__wrapped__("by_heads")), x)[1])(1.0)
    assert faults == [""]
