"""The axes that names end in: arguments are made from their names, outputs are compared."""

import functools
import inspect

import jax
import jax.numpy as jnp
import pytest

from cmgems_jax.config import ModelConfig, TokensConfig
from cmgems_jax.genome import vocabulary
from cmgems_jax.masking import corruption, ranking, strategies
from cmgems_jax.masking import rows as masked_rows
from cmgems_jax.model import attention, bert, heads
from cmgems_jax.pretraining import steps
from cmgems_jax.windows.packing import Batch
from tests.random_batches import RANKS, small_config

K = TokensConfig(k=3)
MODEL = ModelConfig(
    num_layers=2, hidden_size=16, num_heads=2, feedforward_size=32, num_positions=20
)  # fmt: skip
SIZES = {"B": 2, "L": 20, "P": 5, "D": 16, "V": vocabulary.size(3), "C": 4, "Q": 7, "H": 2, "K": 8}
BOOL, INT, FLOAT = (jnp.dtype(name) for name in ("bool", "int32", "float32"))
DTYPES = {
    "centers": BOOL, "eligible": BOOL, "masked": BOOL, "visible": BOOL, "rank": INT, "ids": INT,
    "corrupted": INT, "positions": INT, "segment": INT, "num_centers": INT,
}  # fmt: skip


def argument(name: str) -> jax.ShapeDtypeStruct:
    """Returns what a parameter of this name takes; float32 unless DTYPES has it."""
    if name == "key":
        return jax.eval_shape(lambda: jax.random.key(0))
    if name == "ranks_V":  # of k-mers alone
        return jax.ShapeDtypeStruct((4**3,), INT)
    stem, _, axes = name.rpartition("_")
    if not axes.isupper():
        stem, axes = name, ""
    return jax.ShapeDtypeStruct(tuple(SIZES[axis] for axis in axes), DTYPES.get(stem, FLOAT))


def outputs(function, **static: object) -> list[tuple[tuple[int, ...], str]]:
    """Returns the shapes and dtypes of what a function gives for its arguments without default."""
    parameters = inspect.signature(function).parameters.values()
    names = [
        each.name
        for each in parameters
        if each.default is each.empty and each.name not in static and each.name != "self"
    ]
    call = functools.partial(function, **static)
    found = jax.eval_shape(lambda arguments: call(**arguments), {n: argument(n) for n in names})
    return [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(found)]


def shape(axes: str) -> tuple[int, ...]:
    """Returns the sizes of axes."""
    return tuple(SIZES[axis] for axis in axes)


@pytest.mark.parametrize(
    ("function", "static", "axes", "dtype"),
    [
        (strategies.random, {"k": 3}, "L", BOOL),
        (strategies.genemask, {"k": 3}, "L", BOOL),
        (strategies.global_top, {"k": 3}, "L", BOOL),
        (strategies.sample_mask, {"k": 3, "strategy": "global", "budget": 0.15}, "L", BOOL),
        (strategies.keep_first, {"max_predictions": 2}, "L", BOOL),
        (ranking.token_ranks, {}, "L", INT),
        (ranking.position_ranks, {}, "L", INT),
        (corruption.corrupt, {"k": 3}, "L", INT),
        (corruption.hidden_bases, {"k": 3}, "L", INT),
        (attention.attend, {}, "BQHK", FLOAT),
    ],
)
def test_a_function_gives_the_axes_that_its_names_say(function, static, axes, dtype):
    assert outputs(function, **static) == [(shape(axes), dtype)]


@pytest.mark.parametrize(
    ("module", "method", "axes", "count"),
    [
        (bert.Encoder(MODEL, K), "__call__", "BLD", 1),
        (bert.Encoder(MODEL, K), "all_states", "BLD", 1 + MODEL.num_layers),
        (bert.Encoder(MODEL, K), "cls_state", "BD", 1),
        (bert.Encoder(MODEL, K), "states_at", "PD", 1),
        (bert.Encoder(MODEL, K), "embed", "BLD", 1),
        (heads.MaskedLM(MODEL, K), "__call__", "PV", 1),
        (heads.Classifier(MODEL, K, SIZES["C"]), "__call__", "BC", 1),
        (heads.Classifier(MODEL, K, SIZES["C"]), "head", "BC", 1),
    ],
)
def test_a_models_method_gives_the_axes_that_its_names_say(module, method, axes, count):
    def initialised_and_applied(**arguments: jax.Array):
        return module.init_with_output(jax.random.key(0), **arguments, method=method)[0]

    signature = inspect.signature(getattr(type(module), method))
    initialised_and_applied.__signature__ = signature
    assert outputs(initialised_and_applied) == [(shape(axes), FLOAT)] * count


def test_masks_of_a_batch_have_rows_windows_and_tokens_and_lie_in_rows_of_tokens():
    config = small_config()
    num_rows, num_windows, num_tokens = 3, 2, config.data.num_tokens
    batch = Batch(
        jax.ShapeDtypeStruct((num_rows, num_windows, config.window_bases), jnp.uint8),
        jax.ShapeDtypeStruct((num_rows, num_windows), INT),
    )
    key = jax.ShapeDtypeStruct((2,), jnp.uint32)
    scalar = {dtype: jax.ShapeDtypeStruct((), dtype) for dtype in (INT, FLOAT)}
    draw = functools.partial(steps.eval_masks, ranks_V=RANKS, config=config)
    masked = jax.eval_shape(draw, key, batch, scalar[INT], scalar[FLOAT])
    for name, dtype in (("ids", INT), ("corrupted", INT), ("masked", BOOL)):
        found = getattr(masked, name)
        assert (found.shape, found.dtype) == ((num_rows, num_windows, num_tokens), dtype), name
    assert masked.dropped.shape == (num_rows, num_windows)
    rows = jax.eval_shape(masked_rows.lay_in_rows, masked)
    assert {leaf.shape for leaf in jax.tree.leaves(rows)} == {(num_rows, num_tokens)}
