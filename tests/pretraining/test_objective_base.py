"""The loss of hidden bases against a slow one; devices and parts of a step change nothing."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmgems_jax.config import Config, CurriculumConfig, MaskingConfig, TokensConfig
from cmgems_jax.genome import vocabulary
from cmgems_jax.masking import rows as masked_rows
from cmgems_jax.model import heads
from cmgems_jax.pretraining import losses, steps
from cmgems_jax.runtime import parallel
from cmgems_jax.windows.packing import Batch
from tests.masking.slow_masking import LETTERS, MASK
from tests.model import slow_bases
from tests.random_batches import on_device, random_batch, small_config

BASE = MaskingConfig(objective="base", budget=0.3)
SPANS = CurriculumConfig(name="fixed", strategy="random_spans")


def base_config(k: int, stride: int = 1, **changes: object) -> Config:
    """Returns a small config of the objective."""
    settings = {
        "tokens": TokensConfig(k=k, stride=stride), "masking": BASE, "curriculum": SPANS,
        "batch_size": 8, "accumulation_steps": 1,
    }  # fmt: skip
    config = small_config(**{**settings, **changes})
    return dataclasses.replace(config, model=dataclasses.replace(config.model, dropout=0.0))


@pytest.mark.parametrize("k,stride", [(3, 1), (4, 2), (5, 1), (3, 3)])
def test_the_loss_is_minus_the_log_posterior_of_all_hidden_bases(k, stride):
    """Rows of several windows, spans cut at ends: each window's hidden bases found as strings."""
    config = base_config(k, stride)
    model = heads.MaskedLM(config.model, config.tokens)
    ranks_V = jnp.arange(1, 4**k + 1)
    batch = on_device(random_batch(config))
    masked = jax.jit(
        lambda batch: masked_rows.mask_batch(
            jax.random.key(3), batch, False, jnp.float32(0.3), strategies=("random_spans",) * 2,
            ranks_V=ranks_V, config=config, objective="base",
        )
    )(batch)  # fmt: skip
    params = model.init(jax.random.key(0), masked.ids[0], jnp.zeros(1, jnp.int32))["params"]
    noise = jax.random.normal(jax.random.key(9), params["decoder_bias"].shape)
    params["decoder_bias"] = noise
    room = masked_rows.max_predictions(config, len(batch.index))

    def total(params: dict) -> tuple:
        return losses.base_sums(
            params, masked_rows.lay_in_rows(masked), None, batch.bases, masked,
            model=model, max_predictions=room,
        )  # fmt: skip

    (loss, counts), grads = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))

    num_positions = masked.ids.shape[2]
    apply = jax.jit(model.apply)

    def logits_of(ids: list[int]) -> np.ndarray:
        return np.asarray(apply({"params": params}, jnp.array([ids]), jnp.arange(num_positions)))

    expected, num_hidden, num_right = 0.0, 0, 0
    for row, slot in zip(*np.nonzero(batch.index >= 0), strict=True):
        window = vocabulary.decode(np.asarray(batch.bases[row, slot]))
        corrupted = np.asarray(masked.corrupted[row, slot]).tolist()
        hidden = []
        for base in range(len(window)):
            tokens = slow_bases.covering(base, len(window), k, stride)
            if tokens and all(corrupted[1 + number] == MASK for number in tokens):
                hidden.append(base)
        assert corrupted == slow_bases.shown(window, hidden, k, stride, num_positions)
        answers = slow_bases.posteriors(window, hidden, k, stride, num_positions, logits_of)
        for base, answer in zip(hidden, answers, strict=True):
            expected -= math.log(answer[window[base]])
            num_right += answer[window[base]] >= max(answer[letter] for letter in LETTERS)
        num_hidden += len(hidden)
    assert int(counts["terms"]) == num_hidden > 20
    assert int(counts["right"]) == num_right
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_no_token_is_kept_or_random_and_none_is_masked_that_touches_no_hidden_base():
    """A span that max_predictions cuts short hides fewer bases; what hides none is shown."""
    cut = dataclasses.replace(BASE, max_predictions=4)
    config = base_config(3, masking=cut)
    batch = on_device(random_batch(config))
    masked = masked_rows.mask_batch(
        jax.random.key(3), batch, False, jnp.float32(0.3), strategies=("random_spans",) * 2,
        ranks_V=jnp.arange(1, 65), config=config, objective="base",
    )  # fmt: skip
    expected = jnp.where(masked.masked, MASK, masked.ids)
    np.testing.assert_array_equal(masked.corrupted, expected)
    assert 0 < int(masked.masked.sum(axis=2).max()) <= 4
    for ids_L, masked_L in zip(
        masked.ids.reshape(-1, 64), masked.masked.reshape(-1, 64), strict=True
    ):
        is_kmer = np.asarray(ids_L >= vocabulary.NUM_SPECIAL)[1:-1]
        length = int(is_kmer.sum()) + 2
        hidden = [
            base
            for base in range(length if length > 2 else 0)
            if all(masked_L[1 + n] for n in slow_bases.covering(base, length, 3, 1))
        ]
        touching = {n for base in hidden for n in slow_bases.covering(base, length, 3, 1)}
        assert set(np.flatnonzero(masked_L[1:-1]).tolist()) == touching


def test_devices_and_parts_of_a_step_change_the_update_by_rounding_only():
    """The sum over hidden bases crosses devices, not the mean."""
    results = []
    for num_devices, parts in ((1, 1), (4, 1), (1, 2)):
        config = base_config(3, accumulation_steps=parts)
        init, train, _ = steps.programs(
            config, np.arange(1, 65, dtype=np.int32), jax.devices()[:num_devices]
        )
        lead = (num_devices, parts, -1)
        batch = Batch(*(x.reshape(*lead, *x.shape[1:]) for x in random_batch(config)))
        state, metrics = train(init(), batch)
        assert 0 < float(metrics["terms"]) < float(metrics["predicted"])
        results.append((parallel.to_host(state.params), parallel.to_host(metrics)))
    for params, metrics in results[1:]:
        assert metrics["terms"] == results[0][1]["terms"]
        assert metrics["loss_sum"] == pytest.approx(results[0][1]["loss_sum"], rel=1e-5)
        assert metrics["grad_norm"] == pytest.approx(results[0][1]["grad_norm"], rel=1e-4)
        for leaf, other in zip(
            jax.tree.leaves(params), jax.tree.leaves(results[0][0]), strict=True
        ):
            # Adam's first step is the gradient's sign: of near-zero ones rounding decides
            assert np.mean(np.abs(leaf - other) > 1e-5) < 0.01
