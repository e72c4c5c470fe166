"""Controls of PMI's ranks: by the model's own losses, a part of the state, and shuffled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmgems_jax import config_checks
from cmgems_jax.config import Config, CurriculumConfig, MaskingConfig, TokensConfig
from cmgems_jax.errors import InputError
from cmgems_jax.genome import vocabulary
from cmgems_jax.masking import learned_ranks
from cmgems_jax.masking import rows as masked_rows
from cmgems_jax.model import heads
from cmgems_jax.pmi import table as pmi_table
from cmgems_jax.pretraining import loop as pretraining_loop
from cmgems_jax.pretraining import losses, steps
from cmgems_jax.runtime import parallel
from cmgems_jax.windows.packing import Batch
from tests.helpers import small_config, without_last_checkpoint
from tests.random_batches import on_device, random_batch
from tests.random_batches import small_config as config_of_a_step

LEARNED = MaskingConfig(ranks="learned")


def step_config(parts: int = 1) -> Config:
    """Returns the config of a step under GeneMask by learned ranks, k=3."""
    return config_of_a_step(
        tokens=TokensConfig(k=3),
        masking=LEARNED,
        curriculum=CurriculumConfig(name="fixed", strategy="genemask"),
        accumulation_steps=parts,
    )


def test_losses_are_summed_by_the_kmer_that_was_masked():
    config = step_config()
    model = heads.MaskedLM(config.model, config.tokens)
    masked = masked_rows.mask_batch(
        jax.random.key(3), on_device(random_batch(config)), False, jnp.float32(0.2),
        strategies=("random", "random"), ranks_V=jnp.arange(1, 65), config=config,
    )  # fmt: skip
    params = model.init(jax.random.key(0), masked.ids[0], jnp.zeros(1, jnp.int32))["params"]
    room = masked_rows.max_predictions(config, config.batch_size)
    loss, counts = losses.token_sums(
        params, masked_rows.lay_in_rows(masked), None, model=model, max_predictions=room,
        by_kmer=True,
    )  # fmt: skip
    codes = np.asarray(masked.ids)[np.asarray(masked.masked)] - vocabulary.NUM_SPECIAL
    np.testing.assert_array_equal(counts["count_V"], np.bincount(codes, minlength=64))
    assert float(counts["loss_V"].sum()) == pytest.approx(float(loss), rel=1e-5)
    assert (counts["loss_V"][counts["count_V"] == 0] == 0).all()


def test_the_mean_moves_by_a_hundredth_where_a_kmer_was_masked_and_the_hardest_ranks_first():
    state = learned_ranks.init(jnp.array([2, 1, 4, 3]))
    np.testing.assert_allclose(state.loss_V, np.log(4) * np.ones(4), rtol=1e-6)
    state = learned_ranks.update(state, jnp.array([6.0, 0, 1, 0]), jnp.array([2.0, 0, 4, 0]))
    expected = [0.99 * np.log(4) + 0.03, np.log(4), 0.99 * np.log(4) + 0.0025, np.log(4)]
    np.testing.assert_allclose(state.loss_V, expected, rtol=1e-6)
    assert state.rank_V.tolist() == [2, 1, 4, 3]  # until an evaluation
    assert learned_ranks.ranked(state).rank_V.tolist() == [1, 2, 4, 3]


def test_devices_and_parts_of_a_step_learn_the_same():
    learned = []
    for num_devices, parts in ((1, 1), (4, 1), (1, 2)):
        config = step_config(parts)
        init, train, _ = steps.programs(
            config, np.arange(1, 65, dtype=np.int32), jax.devices()[:num_devices]
        )
        lead = (num_devices, parts, -1)
        batch = Batch(*(x.reshape(*lead, *x.shape[1:]) for x in random_batch(config)))
        state, metrics = train(init(), batch)
        assert all(metric.shape == () for metric in metrics.values())
        learned.append(parallel.to_host(state.ranks.loss_V))
    assert len(set(learned[0].tolist())) > 30
    for other in learned[1:]:
        np.testing.assert_allclose(other, learned[0], rtol=1e-5)


def test_a_run_ranks_anew_at_evaluations_and_resumes_bit_for_bit(genome, tmp_path):
    config = small_config(genome, masking=LEARNED)
    config.data.dir = str(tmp_path / "data")
    unbroken = parallel.to_host(pretraining_loop.pretrain(config, tmp_path / "run"))
    assert unbroken.ranks.rank_V.tolist() == learned_ranks.ranked(unbroken.ranks).rank_V.tolist()
    assert unbroken.ranks.loss_V[np.argmin(unbroken.ranks.rank_V)] == unbroken.ranks.loss_V.max()
    table_V = np.load(tmp_path / "run" / "ranks.npy")
    assert sorted(unbroken.ranks.rank_V) == sorted(table_V)
    assert (unbroken.ranks.rank_V != table_V).any()
    copy = without_last_checkpoint(tmp_path / "run", tmp_path / "copy")
    resumed = parallel.to_host(pretraining_loop.pretrain(config, copy))
    jax.tree.map(np.testing.assert_array_equal, resumed, unbroken)


def test_shuffled_ranks_are_pmis_permuted_once_whatever_the_seed():
    usual, *shuffled = (
        pmi_table.ranks_for(Config(seed=seed, masking=MaskingConfig(ranks=kind)), [])
        for seed, kind in ((0, "pmi"), (0, "shuffled"), (1, "shuffled"))
    )
    np.testing.assert_array_equal(*shuffled)
    assert sorted(shuffled[0]) == sorted(usual)
    assert abs(np.corrcoef(usual, shuffled[0])[0, 1]) < 0.05


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"curriculum": CurriculumConfig(name="fixed", strategy="random_spans")}, "no effect"),
        ({"masking": MaskingConfig(ranks="learned", objective="base")}, "the loss of tokens"),
        ({"eval_every": 0, "curriculum": CurriculumConfig(name="cm_step")}, "made anew"),
    ],
)
def test_ranks_that_nothing_could_learn_or_use_are_refused(changes, complaint):
    with pytest.raises(InputError, match=f"masking.ranks=learned.*{complaint}"):
        config_checks.validate(Config(**{"masking": LEARNED, **changes}))
