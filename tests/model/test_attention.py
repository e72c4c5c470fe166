"""Attention by heads against the plain formula: values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmgems_jax.model import attention

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
    found, back = jax.vjp(lambda *qkv: attention.attend(*qkv, segment_BL), q, k, v)
    expected, plain_back = jax.vjp(lambda *qkv: plain(*qkv, segment_BL), q, k, v)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for gradient, plain_gradient in zip(back(given), plain_back(given), strict=True):
        np.testing.assert_allclose(gradient, plain_gradient, atol=1e-4)


def test_keys_of_other_segments_change_nothing_at_all():
    q, k, v, segment_BL, _ = operands(LENGTH)
    is_first = (segment_BL == 0)[:, :, None, None]
    far = jnp.where(is_first, k, 100 * k)
    before = attention.attend(q, k, v, segment_BL)
    after = attention.attend(q, far, jnp.where(is_first, v, -v), segment_BL)
    np.testing.assert_array_equal(jnp.where(is_first, after - before, 0), 0)


def test_attention_maps_over_draws():
    """As fine-tuning maps it: every entry equals its own call."""
    stacked = [jnp.stack(pair) for pair in zip(operands(LENGTH), operands(LENGTH, 1), strict=True)]
    mapped = jax.vmap(attention.attend)(*stacked[:4])
    for entry in range(2):
        alone = attention.attend(*(x[entry] for x in stacked[:4]))
        np.testing.assert_allclose(mapped[entry], alone, atol=1e-5)
