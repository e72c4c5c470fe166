"""A packed row: nothing lost, little wasted, and every window as if it were alone."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmgems_jax.config import Config, CurriculumConfig, DataConfig
from cmgems_jax.genome import vocabulary
from cmgems_jax.masking import rows as masked_rows
from cmgems_jax.model import heads
from cmgems_jax.pretraining import steps
from cmgems_jax.runtime import parallel
from cmgems_jax.windows import packing
from cmgems_jax.windows.packing import EMPTY, Batch
from tests.random_batches import RANKS, on_device, random_batch, shard, small_config

STRATEGIES = ("random", "genemask", "global")


def training_lengths(config: Config, num_windows: int) -> np.ndarray:
    """Returns bases of windows as they are cut: half full, half uniform."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(config.tokens.k, config.window_bases, num_windows)
    lengths[rng.random(num_windows) < 0.5] = config.window_bases
    return lengths


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(6, 35), min_size=1, max_size=60),
    windows_per_row=st.integers(1, 5),
    stride=st.integers(1, 3),
    epoch=st.integers(0, 3),
)
def test_every_window_lies_once_in_an_epoch_and_every_row_fits(
    lengths, windows_per_row, stride, epoch
):
    data = DataConfig(num_tokens=32, windows_per_row=windows_per_row)
    config = small_config(data=data)
    config.tokens.stride = stride
    packed = packing.pack(np.array(lengths, np.uint16), config)
    rows = packed.rows(np.random.default_rng(epoch))
    assert rows.shape == packed.slot_RM.shape and rows.shape[1] == windows_per_row
    assert np.array_equal(np.sort(rows[rows != EMPTY]), np.arange(len(lengths)))
    assert np.all(rows[:, 0] != EMPTY)
    positions = np.append((np.array(lengths) - 6) // stride + 3, 0)  # the last one is EMPTY's
    assert positions[rows].sum(axis=1).max() <= 32
    assert packed.padding == pytest.approx(1 - positions.sum() / (len(rows) * 32))


@pytest.mark.parametrize("num_tokens", [64, 512])
@pytest.mark.parametrize("num_windows", [1_000, 20_000])
def test_at_least_95_percent_of_the_positions_are_real(num_tokens, num_windows):
    config = small_config(data=DataConfig(num_tokens=num_tokens))
    lengths = training_lengths(config, num_windows)
    assert packing.pack(lengths, config).padding < 0.03
    config.data.windows_per_row = 1
    assert packing.pack(lengths, config).padding == pytest.approx(0.25, abs=0.02)


def test_more_windows_per_row_serve_contigs_that_are_all_short():
    lengths = np.random.default_rng(0).integers(20, 150, 2_000)
    config, padding = Config(), []
    for config.data.windows_per_row in (1, 2, 16):
        padding.append(packing.pack(lengths, config).padding)
    assert padding[0] > 0.8 > padding[1] > 0.6 and padding[2] < 0.06


def test_the_windows_of_a_row_differ_by_epoch():
    config = small_config()
    packed = packing.pack(training_lengths(config, 2_000), config)
    first, second = (packed.rows(np.random.default_rng(epoch)) for epoch in (0, 1))
    pairs = [{tuple(row) for row in rows.tolist() if row[1] != EMPTY} for rows in (first, second)]
    assert len(pairs[0]) > 400
    assert len(pairs[0] & pairs[1]) < 0.1 * len(pairs[0])


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(0, 5), min_size=1, max_size=4))
def test_windows_lie_behind_each_other_and_empty_ones_take_no_room(lengths):
    layout = packing.lay_out(jnp.array([lengths], jnp.int32), 20)
    values = np.arange(len(lengths) * 20, dtype=np.int32).reshape(1, len(lengths), 20)
    row = packing.to_rows(jnp.asarray(values), layout, -1)[0]
    window = [number for number, length in enumerate(lengths) for _ in range(length)]
    position = [place for length in lengths for place in range(length)]
    rest = 20 - len(window)
    expected = [20 * number + place for number, place in zip(window, position, strict=True)]
    assert row.tolist() == expected + [-1] * rest
    assert layout.window[0].tolist() == window + [len(lengths)] * rest
    assert layout.position[0, : len(window)].tolist() == position


def masker(config: Config, strategy: str) -> Callable[[Batch], masked_rows.MaskedBatch]:
    """Returns the program that masks a batch by one strategy; compiled once a shape."""
    draw = functools.partial(
        masked_rows.mask_batch,
        strategies=(strategy, strategy),
        ranks_V=jnp.asarray(RANKS),
        config=config,
    )
    return jax.jit(lambda batch: draw(jax.random.key(3), batch, jnp.int32(0), jnp.float32(0.15)))


def spread_params(config: Config) -> dict:
    """Returns parameters far enough from 0 that a wrong position or neighbour would show."""
    model = heads.MaskedLM(config.model, config.tokens)
    ids = jnp.zeros((1, config.data.num_tokens), jnp.int32)
    params = model.init(jax.random.key(1), ids, ids[0])["params"]
    return jax.tree.map(lambda x: 10 * x if x.ndim == 2 else x, params)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("windows_per_row", [2, 4])
def test_masks_and_logits_of_a_packed_window_are_those_of_the_window_alone(
    strategy, windows_per_row
):
    """Masks and ids exactly; logits to 1e-4 of values around 10: softmax sums of float32."""
    data = DataConfig(num_tokens=64, windows_per_row=windows_per_row, full_length_share=0.2)
    config = small_config(batch_size=8, data=data)
    batch = random_batch(config, seed=windows_per_row)
    mask = masker(config, strategy)
    masked = mask(batch)
    rows = masked_rows.lay_in_rows(masked)
    model, params = heads.MaskedLM(config.model, config.tokens), spread_params(config)

    @jax.jit
    def logits(corrupted_BL: jax.Array, layout: packing.Layout | None) -> np.ndarray:
        everywhere = jnp.arange(corrupted_BL.size, dtype=jnp.int32)
        found = model.apply({"params": params}, corrupted_BL, everywhere, None, layout)
        return found.reshape(*corrupted_BL.shape, -1)

    packed_logits, num_behind = np.asarray(logits(rows.corrupted, rows.layout)), 0
    for row, place in zip(*np.nonzero(batch.index != EMPTY), strict=True):
        alone = mask(Batch(*(x[row, place][None, None] for x in batch)))
        for name in ("ids", "corrupted", "masked", "dropped"):
            one, other = (getattr(m, name) for m in (masked, alone))
            np.testing.assert_array_equal(one[row, place], other[0, 0], err_msg=name)
        single = masked_rows.lay_in_rows(alone)
        length = int((single.ids != vocabulary.PAD).sum())
        inside = np.asarray(rows.layout.window[row]) == place
        assert inside.sum() == length
        for name in ("ids", "corrupted", "masked"):
            one, other = np.asarray(getattr(rows, name)[row]), getattr(single, name)[0]
            np.testing.assert_array_equal(one[inside], other[:length], err_msg=name)
        np.testing.assert_allclose(
            packed_logits[row][inside], logits(single.corrupted, None)[0, :length], atol=1e-4
        )
        num_behind += place > 0
    assert num_behind >= 4
    is_padding = np.asarray(rows.layout.window) == windows_per_row
    np.testing.assert_array_equal(np.asarray(rows.ids)[is_padding], vocabulary.PAD)


@pytest.fixture(scope="module")
def programs() -> dict:
    """The config, first state and programs by windows a row; without dropout, drawn by row."""
    made = {}
    for windows_per_row in (2, 1):
        config = small_config(data=DataConfig(num_tokens=64, windows_per_row=windows_per_row))
        config.model.dropout = 0.0
        state, train, evaluate = steps.make(config, RANKS)
        made[windows_per_row] = config, parallel.to_host(state), train, evaluate
    return made


@pytest.mark.parametrize("seed", range(3))
def test_an_update_from_packed_rows_is_that_from_the_same_windows_one_a_row(programs, seed):
    """Sums exactly; parameters to float32 sums in another order, through AdamW."""
    results = []
    for windows_per_row, (config, start, train, _) in programs.items():
        batch = random_batch(small_config(), seed)
        if windows_per_row == 1:
            batch = Batch(*(x.reshape(-1, 1, *x.shape[2:]) for x in batch))
        state = parallel.replicate(start)
        for _ in range(2):
            state, metrics = train(state, shard(batch, config.accumulation_steps))
        results.append((parallel.to_host(state.params), jax.device_get(metrics)))
    for name in ("predicted", "eligible", "hidden_covered", "bases", "dropped_positions"):
        assert results[0][1][name] == results[1][1][name], name
    assert results[0][1]["loss_sum"] == pytest.approx(results[1][1]["loss_sum"], rel=1e-5)
    assert results[0][1]["padding"] < 0.3 * results[1][1]["padding"]
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-5),
        results[0][0], results[1][0],
    )  # fmt: skip


@pytest.mark.parametrize("which", range(3))
def test_an_evaluation_of_packed_rows_is_that_of_the_same_windows_one_a_row(programs, which):
    sums = []
    for windows_per_row, (_, start, _, evaluate) in programs.items():
        batch = random_batch(small_config())
        batch = Batch(*(x.reshape(-1, windows_per_row, *x.shape[2:]) for x in batch))
        state = parallel.replicate(start)
        sums.append(jax.device_get(evaluate(state, shard(batch), np.int32(which))))
    for name in ("predicted", "eligible", "hidden_covered", "bases", "dropped_positions"):
        assert sums[0][name] == sums[1][name], name
    assert sums[0]["loss_sum"] == pytest.approx(sums[1]["loss_sum"], rel=1e-5)


def test_attention_with_dropout_stays_within_the_window_too():
    """At a rate so small that nothing is dropped: the explicit attention, against the fused one."""
    config = small_config(curriculum=CurriculumConfig(name="fixed"))
    rows = masked_rows.lay_in_rows(masker(config, "random")(on_device(random_batch(config))))
    params, found = spread_params(config), []
    keys = jax.random.split(jax.random.key(2), len(rows.ids))
    everywhere = jnp.arange(rows.ids.size, dtype=jnp.int32)
    config.model.dropout = 0.0
    for config.model.attention_dropout in (0.0, 1e-9):
        apply = jax.jit(heads.MaskedLM(config.model, config.tokens).apply)
        found.append(apply({"params": params}, rows.corrupted, everywhere, keys, rows.layout))
    is_real = np.asarray(rows.ids).ravel() != vocabulary.PAD
    np.testing.assert_allclose(found[0][is_real], found[1][is_real], atol=1e-4)
