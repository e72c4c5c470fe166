"""The posterior of hidden bases against a slow one, for every k and stride."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmgems_jax.config import ModelConfig, TokensConfig
from cmgems_jax.genome import vocabulary
from cmgems_jax.model import base_probabilities, heads
from cmgems_jax.runtime import parallel
from tests.masking.slow_masking import LETTERS
from tests.model import slow_bases

SMALL = ModelConfig(
    num_layers=1, hidden_size=16, num_heads=2, feedforward_size=32, num_positions=48, dropout=0.0,
    attention_dropout=0.0, embedding_init="bases", embedding_scale=1.0,
)  # fmt: skip
K_AND_STRIDE = [(k, stride) for k in range(3, 8) for stride in range(1, k + 1)]


def make(k: int, stride: int = 1) -> tuple[heads.MaskedLM, dict]:
    """Returns a random model whose probabilities are far from even."""
    model = heads.MaskedLM(SMALL, TokensConfig(k=k, stride=stride))
    ids = jnp.zeros((1, 8), jnp.int32)
    params = model.init(jax.random.key(k), ids, ids[0])["params"]
    params = jax.tree.map(lambda leaf: leaf if leaf.std() > 0.1 else 10 * leaf, params)  # context
    params["decoder_bias"] = 2 * jax.random.normal(jax.random.key(9), params["decoder_bias"].shape)
    return model, params


def encoded(windows: list[str]) -> np.ndarray:
    """Returns the windows' bases (B, N), padded behind."""
    longest = max(map(len, windows))
    rows = [vocabulary.encode(window) for window in windows]
    return np.stack(
        [np.pad(row, (0, longest - len(row)), constant_values=vocabulary.PADDING) for row in rows]
    )


@pytest.mark.parametrize("k,stride", K_AND_STRIDE)
def test_posteriors_equal_those_of_loops_over_kmers_as_strings(k, stride):
    """Ends, neighbours, an N, a short window, an end that no token covers, -1 in between."""
    rng = random.Random(100 * k + stride)
    windows = ["".join(rng.choices(LETTERS, k=length)) for length in (31, 31, 31, 20)]
    windows[2] = windows[2][:10] + "N" + windows[2][11:]
    hidden = [[0, 15, 16, 30], [5, 6, 7, 8], [10, 11, 25, -1], [19, -1, 3, 25]]
    model, params = make(k, stride)
    program = base_probabilities.program(model, params)
    found = program(encoded(windows), np.array(hidden, np.int32))
    length = vocabulary.num_tokens(31, k, stride) + 2
    apply = jax.jit(model.apply)

    def logits_of(ids: list[int]) -> np.ndarray:
        return np.asarray(apply({"params": params}, jnp.array([ids]), jnp.arange(len(ids))))

    for window, asked, found_HA in zip(windows, hidden, found, strict=True):
        real = [base for base in asked if 0 <= base < len(window)]
        answers = slow_bases.posteriors(window, real, k, stride, length, logits_of)
        by_base = dict(zip(real, answers, strict=True))
        for base, found_A in zip(asked, found_HA, strict=True):
            answer = by_base.get(base)
            if answer is None:
                assert np.isnan(found_A).all(), (window, base)
            else:
                expected_A = [answer[letter] for letter in LETTERS]
                # float32 over 4**7 k-mers
                np.testing.assert_allclose(np.exp(found_A), expected_A, rtol=2e-4, atol=1e-6)


def test_a_hidden_base_cannot_be_seen():
    """The posterior is the same whatever letter is hidden, and depends on those that are not."""
    model, params = make(4)
    program = base_probabilities.program(model, params)
    bases = vocabulary.encode("ATCGGCTAAGCTTACGATCC")
    rows = np.stack([np.r_[bases[:9], letter, bases[10:]] for letter in range(4)]).astype(np.uint8)
    hidden = np.full((4, 1), 9, np.int32)
    found = program(rows, hidden)
    np.testing.assert_allclose(found, np.broadcast_to(found[:1], found.shape), atol=1e-6)
    assert np.abs(program(rows[:, ::-1].copy(), hidden) - found).max() > 0.01


@pytest.mark.parametrize("below", [-40.0, -300.0])
def test_logs_and_gradients_of_what_is_next_to_nothing_are_finite(below):
    """A quarter of the k-mers are far below the others; exp(-300) is 0 in float32."""
    is_low_X = jnp.arange(64) >= 48  # those that begin with the last letter
    logits_PV = jnp.zeros((1, vocabulary.size(3))).at[0, 5:].set(jnp.where(is_low_X, below, 0.0))

    def of_last_letter(logits_PV: jax.Array) -> jax.Array:
        return base_probabilities.letter_log_probabilities(logits_PV, 3)[0, 0, 3]

    value, grad = jax.value_and_grad(of_last_letter)(logits_PV)
    least = np.log(np.finfo(np.float32).tiny)
    assert value == pytest.approx(max(np.log(16) + below, least) - np.log(48))
    np.testing.assert_allclose(grad[0, 5:53], -1 / 48, rtol=1e-5)  # the others go down
    assert np.isfinite(grad).all()


def test_a_mean_over_tokens_has_finite_gradients_where_nothing_is_masked():
    masked_BT = jnp.zeros((2, 6), bool).at[0, 2].set(True)

    def total(log_values_PK: jax.Array) -> jax.Array:
        mean_BN = base_probabilities.mean_over_tokens(log_values_PK, masked_BT)
        return jnp.where(mean_BN > -100, mean_BN, 0).sum()

    value, grad = jax.value_and_grad(total)(jnp.full((4, 3), -2.0))
    assert value == pytest.approx(-6)  # one token, three bases
    np.testing.assert_array_equal(grad, jnp.zeros((4, 3)).at[0].set(1))


@pytest.mark.parametrize("k,stride", [(6, 1), (6, 4), (3, 3)])
def test_room_for_a_run_of_bases_is_enough_and_less_is_not_a_number(k, stride):
    model, params = make(k, stride)
    bases = np.random.default_rng(0).integers(0, 4, (4, 40)).astype(np.uint8)
    starts = 10 + np.arange(4, dtype=np.int32) % stride  # every phase against the tokens
    hidden = starts[:, None] + np.arange(k, dtype=np.int32)
    hidden_BN = np.zeros(bases.shape, bool)
    np.put_along_axis(hidden_BN, hidden, True, axis=1)
    needed = np.asarray(base_probabilities.touching(jnp.asarray(hidden_BN), k, stride)).sum(axis=1)
    room = base_probabilities.most_touching(k, k, stride)
    assert needed.max() == room
    whole, tight, less = (
        base_probabilities.program(model, params, room=number)(bases, hidden)
        for number in (None, room, 1)
    )
    np.testing.assert_allclose(tight, whole, atol=1e-5)
    assert np.isfinite(whole).all() and np.isnan(less).any()


def test_many_rows_are_mapped_in_batches():
    model, params = make(3)
    rng, size = np.random.default_rng(0), parallel.whole_batch(3)
    bases = rng.integers(0, 4, (3 * size, 20)).astype(np.uint8)
    hidden = rng.integers(0, 20, (3 * size, 2)).astype(np.int32)
    program = base_probabilities.program(model, params)
    mapped = parallel.map_rows(
        program, bases[:-1], hidden[:-1], batch_size=size, description="test"
    )
    np.testing.assert_allclose(mapped, program(bases, hidden)[:-1], atol=1e-5)
