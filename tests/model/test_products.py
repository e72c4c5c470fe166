"""Products of rounded operands: what they differ by, and that a step has no others."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmgems_jax.config import Config, DataConfig, ModelConfig
from cmgems_jax.model import hardware, products
from cmgems_jax.pretraining import steps
from cmgems_jax.windows.packing import Batch


def test_a_product_and_its_gradients_are_float32s_but_for_the_rounding_of_the_operands():
    rng = np.random.default_rng(0)
    x_BLD, weights_DF, given_BLF = (
        rng.normal(size=size).astype(np.float32) for size in ((3, 5, 64), (64, 7), (3, 5, 7))
    )
    values, back = jax.vjp(products.rounded, x_BLD, weights_DF)
    exact, exact_back = jax.vjp(jnp.matmul, x_BLD, weights_DF)
    pairs = [(values, exact), *zip(back(given_BLF), exact_back(given_BLF), strict=True)]
    for found, expected in pairs:
        assert found.dtype == jnp.float32 and found.shape == expected.shape
        # Two operands, each within half of 2**-8 of itself, and sums of up to 64 of them.
        assert 0 < abs(found - expected).max() < 2**-8 * 64**0.5 * 4
    by_hand = np.asarray(jnp.asarray(x_BLD, jnp.bfloat16), np.float64) @ np.asarray(
        jnp.asarray(weights_DF, jnp.bfloat16), np.float64
    )
    np.testing.assert_allclose(values, by_hand, atol=1e-5)


def _operands(matmul: str) -> list[tuple[str, str, str]]:
    """Returns the dtypes of both operands and the result of every product of a train step."""
    model = ModelConfig(
        *(2, 32, 2, 64, 32), dropout=0.1, attention_dropout=0.0, dtype="float32", matmul=matmul
    )
    config = Config(batch_size=2, data=DataConfig(num_tokens=32), model=model)
    init, train, _ = steps.programs(config, np.arange(1, 4097, dtype=np.int32))
    batch = Batch(
        jax.ShapeDtypeStruct((1, 1, 2, config.data.windows_per_row, config.window_bases), np.uint8),
        jax.ShapeDtypeStruct((1, 1, 2, config.data.windows_per_row), np.int32),
    )
    text = train.lower(jax.eval_shape(init), batch).as_text()
    product = re.compile(r"dot_general .*: \(tensor<(?:\d+x)*(\w+)>, tensor<(?:\d+x)*(\w+)>\)")
    found = [match.groups() for match in product.finditer(text)]
    assert len(found) == text.count("stablehlo.dot_general")
    return found


@pytest.mark.parametrize("matmul, dtype", [("float32", "f32"), ("bfloat16", "bf16")])
def test_every_product_of_a_step_has_operands_of_the_dtype_asked_for(matmul, dtype):
    found = _operands(matmul)
    assert len(found) > 30 and set(found) == {(dtype, dtype)}


def test_auto_asks_for_the_units_of_this_cpu_alone(monkeypatch):
    for is_there in (False, True):
        monkeypatch.setattr(products, "is_faster_here", lambda is_there=is_there: is_there)
        config = ModelConfig(matmul="auto")
        found = {name: hardware.resolve(config, name).matmul for name in ("cpu", "gpu", "tpu")}
        expected = "bfloat16" if is_there else "float32"
        assert found == {"cpu": expected, "gpu": "float32", "tpu": "float32"}


@pytest.mark.parametrize(
    "text, is_faster",
    [("flags\t\t: fpu avx512_bf16 avx2", True), ("flags : fpu avx2", False), ("", False)],
)
def test_units_are_read_from_the_flags_of_the_cpu(monkeypatch, text, is_faster):
    monkeypatch.setattr(products.Path, "read_text", lambda self: f"processor : 0\n{text}\n")
    products.is_faster_here.cache_clear()
    assert products.is_faster_here() == is_faster
    products.is_faster_here.cache_clear()
