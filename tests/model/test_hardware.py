"""The device that a program is compiled for is an argument, whatever is at hand."""

import types
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from cmgems_jax.config import ModelConfig, TokensConfig
from cmgems_jax.model import attention, attention_check, bert, hardware

SMALL = ModelConfig(num_layers=1, hidden_size=16, num_heads=2, feedforward_size=32)
# These describe what is at hand, for logs and folders, and compile nothing.
MAY_ASK = {"run_log.py", "compile_cache.py", "doctor.py"}


@pytest.mark.parametrize(
    "name, platform", [("cpu", "cpu"), ("tpu", "tpu"), ("gpu", "gpu"), ("cuda", "gpu")]
)
def test_the_platform_is_that_of_the_devices_given(name, platform):
    assert hardware.platform_of([types.SimpleNamespace(platform=name)]) == platform


def test_auto_is_float32_on_a_cpu_and_bfloat16_elsewhere():
    found = {name: hardware.resolve(SMALL, name).dtype for name in ("cpu", "gpu", "tpu")}
    assert found == {"cpu": "float32", "gpu": "bfloat16", "tpu": "bfloat16"}


def test_what_is_set_is_not_resolved_away():
    config = ModelConfig(dtype="float32", attention="plain")
    assert hardware.resolve(config, "tpu") == config
    resolved = hardware.resolve(ModelConfig(), "tpu")
    assert hardware.resolve(resolved, "cpu") == resolved


def test_attention_is_the_platforms_kernel_unless_the_plain_one_is_asked_for():
    ways = {name: hardware.resolve(SMALL, name).attention for name in attention.FUSED}
    assert ways == {"cpu": "by_heads", "gpu": "cudnn", "tpu": "splash"}
    assert hardware.resolve(ModelConfig(attention="plain"), "tpu").attention == "plain"


def test_a_kernel_that_is_wrong_on_the_device_at_hand_gives_way_and_one_line_says_why(
    monkeypatch, capsys
):
    monkeypatch.setattr(hardware, "platform_of", lambda: "tpu")
    monkeypatch.setattr(attention_check, "fault", lambda way: "lets windows see each other")
    hardware._working.cache_clear()
    found = [hardware.resolve(SMALL).attention for _ in range(2)]
    assert found == ["plain", "plain"]
    line = "attention: splash lets windows see each other; the plain form runs instead"
    assert capsys.readouterr().out.splitlines() == [line]
    monkeypatch.setattr(attention_check, "fault", lambda way: "")
    hardware._working.cache_clear()
    assert hardware.resolve(SMALL).attention == "splash"
    hardware._working.cache_clear()


def test_a_model_for_a_tpu_computes_in_bfloat16_though_this_is_a_cpu():
    ids = jnp.ones((1, 8), jnp.int32)
    model = bert.Encoder(hardware.resolve(SMALL, "tpu"), TokensConfig(k=3))
    with jax.numpy_dtype_promotion("standard"):  # flax's LayerNorm relies on it
        state = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), ids)[0])
    assert state.dtype == jnp.bfloat16


def test_nothing_that_is_compiled_asks_which_backend_there_is():
    package = Path(hardware.__file__).parent
    asking = {path.name for path in package.rglob("*.py") if "default_backend" in path.read_text()}
    assert asking <= MAY_ASK
