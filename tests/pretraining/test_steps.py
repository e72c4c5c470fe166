"""The train step: the same update on any number of devices, one conditional, true sums."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmgems_jax.config import Config, CurriculumConfig, DataConfig, ModelConfig, OptimizerConfig
from cmgems_jax.genome import vocabulary
from cmgems_jax.masking import curriculum
from cmgems_jax.masking import rows as masked_rows
from cmgems_jax.model import heads
from cmgems_jax.pretraining import optimizer, steps
from cmgems_jax.runtime import parallel
from cmgems_jax.windows import packing
from cmgems_jax.windows.packing import Batch
from tests.helpers import run_python, xla_flags
from tests.random_batches import RANKS, on_device, random_batch, shard, sharded, small_config


def masks(config: Config, which: int, strategies: tuple[str, ...], *, batch: Batch | None = None):
    """Returns a masked batch."""
    batch = batch or random_batch(config)
    return masked_rows.mask_batch(
        jax.random.key(0), on_device(batch), jnp.int32(which), jnp.float32(0.15),
        strategies=strategies, ranks_V=jnp.asarray(RANKS), config=config,
    )  # fmt: skip


@pytest.fixture(scope="module")
def cm_gems():
    """Returns config, the first state on the host, and the programs on 4 devices."""
    config = small_config()
    state, train, evaluate = steps.make(config, RANKS)
    return config, parallel.to_host(state), train, evaluate


def test_ids_begin_with_cls_and_end_with_sep_behind_the_last_token():
    bases = np.r_[vocabulary.encode("ATGCATG"), [vocabulary.PADDING] * 3].astype(np.uint8)
    expected = [vocabulary.CLS, *vocabulary.tokenize(bases[:7], 6), vocabulary.SEP, 0, 0, 0]
    np.testing.assert_array_equal(vocabulary.model_ids(jnp.asarray(bases), k=6), expected)
    both = vocabulary.model_ids(np.stack([bases, bases]), k=6)  # numpy, with a leading axis
    assert isinstance(both, np.ndarray) and both.dtype == np.int32
    np.testing.assert_array_equal(both, [expected, expected])


def test_max_predictions_holds_in_every_window_by_itself():
    """The first ones stay; the rest is counted and neither corrupted nor predicted."""
    config = small_config()
    free = masks(config, 0, ("random", "random"))
    assert free.dropped.sum() == 0
    config.masking.max_predictions = 3
    limited = masks(config, 0, ("random", "random"))
    pairs = zip(*(np.asarray(x.masked).reshape(-1, 64) for x in (limited, free)), strict=True)
    for limited_L, free_L in pairs:
        np.testing.assert_array_equal(np.flatnonzero(limited_L), np.flatnonzero(free_L)[:3])
    np.testing.assert_array_equal(
        limited.dropped, free.masked.sum(axis=2) - limited.masked.sum(axis=2)
    )
    assert limited.dropped.sum() > 0
    assert limited.masked.sum() <= masked_rows.max_predictions(config, config.batch_size) == 96
    untouched = ~np.asarray(limited.masked)
    np.testing.assert_array_equal(
        np.asarray(limited.corrupted)[untouched], np.asarray(limited.ids)[untouched]
    )


def test_the_switch_picks_the_strategy_that_its_index_names():
    config = small_config()
    names = ("genemask", "global", "random")
    for which, name in enumerate(names):
        chosen = masks(config, which, names)
        alone = masks(config, 0, (name, name))
        np.testing.assert_array_equal(chosen.corrupted, alone.corrupted)


def test_the_mask_of_a_sequence_does_not_depend_on_the_batch_around_it():
    config = small_config()
    batch = on_device(random_batch(config))
    draw = functools.partial(
        masked_rows.mask_batch, jax.random.key(0), which=jnp.int32(0), budget=jnp.float32(0.15),
        strategies=("genemask", "global"), ranks_V=jnp.asarray(RANKS), config=config,
    )  # fmt: skip
    whole = draw(batch)
    part = draw(Batch(*(x[5:9] for x in batch)))
    np.testing.assert_array_equal(whole.corrupted[5:9], part.corrupted)


def test_the_compiled_step_holds_one_conditional_with_both_strategies_inside(cm_gems):
    """Not a select: only the branch that is taken runs. `lowest` bisects in a loop in each."""
    config, start, train, _ = cm_gems
    program = train.lower(parallel.replicate(start), sharded(config)).compile().as_text()
    assert program.count(" conditional(") == 1
    fixed = small_config(curriculum=CurriculumConfig(name="fixed"))
    state, train, _ = steps.make(fixed, RANKS)
    assert " conditional(" not in train.lower(state, sharded(fixed)).compile().as_text()


def test_each_window_is_read_from_the_strand_that_the_steps_key_and_its_index_draw(cm_gems):
    """Off, the update is the same as on these strands; the masks do not change with them."""
    config, start, train, _ = cm_gems
    batch = on_device(random_batch(config))
    key = jax.random.fold_in(jax.random.wrap_key_data(start.key), steps._TRAIN_KEY)
    key = jax.random.fold_in(key, 0)
    assert steps._on_drawn_strands(key, batch, config) is batch
    reading = dataclasses.replace(config.data, reverse_complement=True)
    config = dataclasses.replace(config, data=reading)
    drawn = steps._on_drawn_strands(key, batch, config)
    part = steps._on_drawn_strands(key, Batch(*(x[5:9] for x in batch)), config)
    np.testing.assert_array_equal(drawn.bases[5:9], part.bases)
    other = vocabulary.reverse_complement(np.asarray(batch.bases))
    is_reverse = (np.asarray(drawn.bases) == other).all(axis=2)
    is_forward = (np.asarray(drawn.bases) == np.asarray(batch.bases)).all(axis=2)
    assert (is_reverse | is_forward).all()
    assert 0.2 < is_reverse.mean() < 0.8
    on = steps.make(config, RANKS)[1]
    (here, found), (there, expected) = (
        program(parallel.replicate(start), shard(one, config.accumulation_steps))
        for program, one in ((on, random_batch(config)), (train, drawn))
    )
    assert {name: float(value) for name, value in found.items()} == {
        name: float(value) for name, value in expected.items()
    }
    jax.tree.map(np.testing.assert_array_equal, here.params, there.params)


def test_training_lowers_the_loss_and_advances_the_state(cm_gems):
    config, start, train, _ = cm_gems
    state = parallel.replicate(start)
    key = np.asarray(state.key)
    losses = []
    for _ in range(12):
        state, metrics = train(state, sharded(config))
        losses.append(float(metrics["loss_sum"] / metrics["predicted"]))
    assert losses[-1] < losses[0] - 0.5
    assert int(state.step) == 12
    np.testing.assert_array_equal(state.key, key)
    assert int(state.curriculum.hard_steps) == 0


def test_the_stage_in_the_state_decides_what_the_step_masks(cm_gems):
    config, start, train, _ = cm_gems
    hidden = {}
    for stage in (curriculum.EASY, curriculum.HARD):
        state = parallel.replicate(start)
        after = parallel.replicate(state.curriculum.replace(stage=np.array(stage, np.int32)))
        state, metrics = train(state.replace(curriculum=after), sharded(config))
        assert float(metrics["hard"]) == stage
        assert int(state.curriculum.hard_steps) == stage
        hidden[stage] = float(metrics["hidden_covered"])
    assert hidden[0] != hidden[1]


def test_cm_step_masks_a_hard_batch_by_the_hard_budget():
    """By the law of `cm_step` step 0 is easy, and one behind the last is hard."""
    settings = CurriculumConfig(name="cm_step", budget_schedule="by_stage", hard_budget=0.4)
    config = small_config(accumulation_steps=1, curriculum=settings)
    start, train, _ = steps.make(config, RANKS)
    start = parallel.to_host(start)
    for step, hard, budget, (least, most) in (
        (0, 0, 0.15, (0.1, 0.2)),
        (config.num_steps, 1, 0.4, (0.2, 0.45)),
    ):
        state = parallel.replicate(start.replace(step=np.array(step, np.int32)))
        _, metrics = train(state, sharded(config))
        assert float(metrics["hard"]) == hard
        assert float(metrics["budget"]) == pytest.approx(budget)
        assert least < metrics["predicted"] / metrics["eligible"] < most


def test_every_device_holds_the_same_state_after_steps(cm_gems):
    """pmap accepts out_axes=None for values that differ: only the shards show it."""
    config, start, train, _ = cm_gems
    state = parallel.replicate(start)
    for seed in range(3):
        state, _ = train(state, sharded(config, seed))
    for leaf in jax.tree.leaves(state):
        shards = [np.asarray(piece.data) for piece in leaf.addressable_shards]
        assert len(shards) == jax.device_count()
        for other in shards[1:]:
            np.testing.assert_array_equal(other, shards[0])


@pytest.mark.parametrize("max_predictions", [0, 3])
def test_accumulation_in_parts_gives_the_same_update(max_predictions):
    """Tolerance: sums of float32 gradients in another order, through 3 AdamW steps."""
    results = []
    for parts in (1, 4):
        config = small_config(accumulation_steps=parts)
        config.masking.max_predictions = max_predictions
        state, train, _ = steps.make(config, RANKS)
        for seed in range(3):
            state, metrics = train(state, sharded(config, seed))
        results.append((parallel.to_host(state.params), float(metrics["predicted"])))
    assert results[0][1] == results[1][1]
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-5),
        results[0][0], results[1][0],
    )  # fmt: skip


_PROGRAM = """
import json, sys
import numpy as np
import jax
from cmgems_jax.pretraining import steps
from cmgems_jax.runtime import parallel
from tests.random_batches import RANKS, sharded, small_config
config = small_config(batch_size=16)
state, train, _ = steps.make(config, RANKS)
counts = []
for seed in range(5):
    state, metrics = train(state, sharded(config, seed))
    names = ("predicted", "eligible", "hidden_covered", "dropped_positions")
    counts.append([float(metrics[name]) for name in names])
np.savez(sys.argv[1], *jax.tree.leaves(parallel.to_host(state.params)))
print(json.dumps({"devices": jax.device_count(), "counts": counts}))
"""


def test_one_device_and_eight_give_the_same_parameters_after_five_steps(tmp_path):
    """Relative 1e-5 of each tensor's largest value: sums in another order; masks exactly."""
    reports, params = [], []
    for devices in (1, 8):
        output = tmp_path / f"{devices}.npz"
        result = run_python("-c", _PROGRAM, output, XLA_FLAGS=xla_flags(devices))
        assert result.returncode == 0, result.stderr
        reports.append(json.loads(result.stdout.splitlines()[-1]))
        params.append(np.load(output))
    assert [report["devices"] for report in reports] == [1, 8]
    assert reports[0]["counts"] == reports[1]["counts"]
    for name in params[0]:
        one, eight = params[0][name], params[1][name]
        scale = max(np.abs(one).max(), 1e-2)
        np.testing.assert_allclose(eight / scale, one / scale, rtol=0, atol=1e-5, err_msg=name)


def test_an_evaluation_is_the_same_each_time_and_changes_no_state(cm_gems):
    config, start, _, evaluate = cm_gems
    state = parallel.replicate(start)
    batch = shard(random_batch(config))
    first = evaluate(state, batch, np.int32(1))
    second = evaluate(state, batch, np.int32(1))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert float(evaluate(state, batch, np.int32(2))["hidden_covered"]) != float(
        first["hidden_covered"]
    )


def test_the_loss_of_an_evaluation_equals_a_sum_of_log_probabilities(cm_gems):
    """Against a plain log-softmax over every position; tolerance: float32 sums."""
    config, start, _, evaluate = cm_gems
    state = parallel.replicate(start)
    batch = random_batch(config)
    sums = evaluate(state, shard(batch), np.int32(0))
    host = parallel.to_host(state)
    masked = steps.eval_masks(
        host.key, on_device(batch), jnp.int32(0), host.curriculum.budget,
        ranks_V=RANKS, config=config,
    )  # fmt: skip
    masked = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), masked)  # every window alone
    everywhere = np.arange(masked.ids.size, dtype=np.int32)
    model = heads.MaskedLM(config.model, config.tokens)
    logits = np.asarray(model.apply({"params": host.params}, masked.corrupted, everywhere))
    logits = logits.reshape(*masked.ids.shape, -1)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    losses = -np.take_along_axis(log_p, np.asarray(masked.ids)[..., None], axis=-1)[..., 0]
    expected = losses[np.asarray(masked.masked)].sum()
    assert float(sums["loss_sum"]) == pytest.approx(expected, rel=1e-4)
    assert float(sums["predicted"]) == np.asarray(masked.masked).sum()


def test_rows_of_padding_add_nothing(cm_gems):
    config, start, _, evaluate = cm_gems
    state = parallel.replicate(start)
    rows = np.full((16, 2, config.window_bases), vocabulary.PADDING, np.uint8)
    index = np.full((16, 2), packing.EMPTY, np.int32)
    sums = evaluate(state, shard(Batch(rows, index)), np.int32(1))
    assert {name: float(value) for name, value in sums.items()} == dict.fromkeys(sums, 0.0)


@pytest.mark.parametrize(
    "strategy, tokens_per_center", [("random", 6), ("genemask", 8.5), ("global", 11)]
)
def test_windows_without_a_mask_are_those_without_a_center(strategy, tokens_per_center):
    """Of 70 6-mers (1 - rate)**70: 17 %, 29 %, 38 %; within 5 binomial standard deviations."""
    config = small_config(
        batch_size=1_000, data=DataConfig(num_tokens=72, windows_per_row=2),
        model=ModelConfig(num_positions=72),
    )  # fmt: skip
    batch = packing.full_rows(config, config.batch_size)
    sums = masked_rows.mask_sums(batch, masks(config, 0, (strategy, strategy), batch=batch), config)
    share = (1 - 0.15 / tokens_per_center) ** 70
    assert sums["windows"] == 1_000
    assert abs(sums["unmasked_windows"] / 1_000 - share) < 5 * np.sqrt(share * (1 - share) / 1_000)


@pytest.mark.parametrize(
    "name, num_tokens, windows_per_row",
    [
        ("cm_gems", 64, 1), ("cm_gems", 64, 2), ("cm_gems", 512, 1), ("cm_gems", 512, 2),
        ("fixed", 64, 1), ("fixed", 512, 2), ("hard_to_easy", 64, 2), ("hard_to_easy", 512, 1),
    ],
)  # fmt: skip
def test_the_room_for_predictions_is_not_reached_and_not_wasteful(
    name, num_tokens, windows_per_row
):
    """2,000 rows of windows with lengths as in training, by the masks alone."""
    config = small_config(
        batch_size=2_000, curriculum=CurriculumConfig(name=name),
        data=DataConfig(num_tokens=num_tokens, windows_per_row=windows_per_row),
    )  # fmt: skip
    batch = random_batch(config)
    program = jax.jit(
        functools.partial(
            masked_rows.mask_batch, strategies=curriculum.strategies(config.curriculum),
            ranks_V=jnp.asarray(RANKS), config=config,
        )
    )  # fmt: skip
    for which in (0, 1):
        masked = program(jax.random.key(1), batch, which, jnp.float32(0.15)).masked
        for num_rows in (1, 50):
            num_masked = masked.reshape(2_000 // num_rows, -1).sum(axis=1)
            assert num_masked.max() <= masked_rows.max_predictions(config, num_rows)
        filled = num_masked.mean() / masked_rows.max_predictions(config, 50)
        assert 0.2 < filled < 0.9


def test_room_grows_with_the_largest_budget_that_the_curriculum_can_reach():
    config = small_config()
    before = masked_rows.max_predictions(config, 32)
    config.curriculum.budget_schedule, config.curriculum.budget_max = "adaptive", 0.3
    assert masked_rows.max_predictions(config, 32) > 1.5 * before


def test_the_learning_rate_follows_the_published_schedule():
    schedule = optimizer.schedule(OptimizerConfig(), 10_000)
    for step, expected in ((0, 0), (250, 2e-4), (500, 4e-4), (5_250, 2e-4), (10_000, 0)):
        assert float(schedule(step)) == pytest.approx(expected, abs=1e-9)


def test_biases_and_layer_norm_do_not_decay():
    config = small_config()
    model = heads.MaskedLM(config.model, config.tokens)
    ids = jnp.zeros((1, 64), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), ids, ids[0])["params"]
    flat = jax.tree_util.tree_leaves_with_path(optimizer.decay_mask(params))
    decays = {jax.tree_util.keystr(path, simple=True, separator="/"): flag for path, flag in flat}
    assert {name for name, flag in decays.items() if flag} == {
        name for name in decays if name.endswith(("kernel", "embedding", "embeddings"))
    }
    assert not any(flag for name, flag in decays.items() if "norm" in name or "bias" in name)
    assert decays["encoder/position_embeddings"] and decays["encoder/word_embeddings/embedding"]
