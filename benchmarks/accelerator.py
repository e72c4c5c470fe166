"""DNABERT-6 and LOGO on an accelerator: share of the machine's own matrix rate, and PyTorch.

    python -m benchmarks.accelerator --torch_python=ENVIRONMENT/bin/python --output=trace
    python -m benchmarks.accelerator --smoke

One call does all: it measures the rate of a large matrix product, then for each model the
median step on full windows, from which follow the share of that rate (MFU, the
matrix products of a step counted by hand), the seconds of 10,000 steps, and the peak of
memory, beside what launch.plan says of this device before anything runs; it keeps a trace of
three steps for TensorBoard or Perfetto. With --torch_python
HuggingFace's BertForMaskedLM takes turns with it (bfloat16, sdpa, torch.compile). --smoke does
the same with small sizes on whatever there is, in a minute, and keeps nothing.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks import result, rows
from benchmarks.peer import torch_peer
from cmgems_jax.config import Config
from cmgems_jax.model import bert
from cmgems_jax.plan import plan
from cmgems_jax.plan import targets as plan_targets
from cmgems_jax.runtime import command
from configs import dnabert6, logo6

_ROWS = flags.DEFINE_integer("rows", 256, "Rows of 512 positions per step.", 1)
_PARTS = flags.DEFINE_integer("parts", 8, "Parts that a step's rows go through in turn.", 1)
_REPEATS = flags.DEFINE_integer("repeats", 7, "Timed repeats.", 1)
_STEPS = flags.DEFINE_integer("steps", 5, "Steps of one repeat.", 1)
_PYTHON = flags.DEFINE_string("torch_python", "", "Python that has torch; none: ours alone.")
_OUTPUT = flags.DEFINE_string("output", "", "Folder of the traces; none: no trace.")
_SMOKE = flags.DEFINE_bool("smoke", False, "Small sizes, only to see that it runs.")
_MODELS = {"DNABERT-6": dnabert6.get_config, "LOGO": logo6.get_config}
_PUBLISHED_STEPS = 10_000


def main() -> None:
    """Runs the benchmark."""
    device = jax.devices()[0]
    side = 512 if _SMOKE.value else 8_192
    rate = matrix_rate(side, jnp.float32 if device.platform == "cpu" else jnp.bfloat16)
    print(f"{device.device_kind}: {rate / 1e12:,.2f} TFLOP/s in a product of side {side:,}")
    for name, get_config in _MODELS.items():
        config = _sized(get_config())
        planned = plan.make(config, plan_targets.find(plan_targets.HERE), searches=0)
        planned_bytes = sum(planned.memory.values()) - planned.memory["device_bytes"]
        run = rows.stepper(config)
        samples = _in_turn(config, run)
        if _OUTPUT.value:
            with jax.profiler.trace(str(Path(_OUTPUT.value) / name)):
                run(3)
        step_s = statistics.median(samples["cmgems_jax"])
        flops = plan.flops_by_hand(config)
        memory = device.memory_stats() or {}
        notes = {
            "layers": config.model.num_layers,
            "hidden": config.model.hidden_size,
            "rows": config.batch_size,
            "parts": config.accumulation_steps,
            "positions": config.data.num_tokens,
            "dtype": str(bert.compute_dtype(config.model)),
            "TFLOP/s of a product": round(rate / 1e12, 2),
            "MFU": round(flops / step_s / rate, 3),
            "seconds of 10,000 steps": round(_PUBLISHED_STEPS * step_s),
            "GB at the peak": round(memory.get("peak_bytes_in_use", 0) / 1e9, 2),
            "seconds per step, planned": planned.seconds_per_step,
            "GB, planned": round(planned_bytes / 1e9, 2),
        }
        if _SMOKE.value:
            print(name, notes, {what: statistics.median(took) for what, took in samples.items()})
        else:
            size = f"{config.model.num_layers}x{config.model.hidden_size}"
            result.report(f"accelerator_{size}", samples, unit="s/step", notes=notes)


def matrix_rate(side: int, dtype: jnp.dtype) -> float:
    """Returns the operations a second of a product of square matrices, the best of several."""
    keys = jax.random.split(jax.random.key(0))
    left, right = (jax.random.normal(key, (side, side), dtype) for key in keys)
    product = jax.jit(jnp.matmul)
    took = []
    for _ in range(8):  # the first one compiles
        start = time.perf_counter()
        jax.block_until_ready(product(left, right))
        took.append(time.perf_counter() - start)
    return 2 * side**3 / min(took[1:])


def _sized(config: Config) -> Config:
    """Returns the config with the flags' rows, or with small sizes; without dropout.

    PyTorch's fused attention takes none either, so that both do the same work.
    """
    config.batch_size, config.accumulation_steps = _ROWS.value, _PARTS.value
    config.model.dropout = config.model.attention_dropout = 0.0
    if _SMOKE.value:
        config.batch_size, config.accumulation_steps = 4, 2
        config.data.num_tokens = config.model.num_positions = 32
        config.model.num_layers, config.model.hidden_size = 1, 32
        config.model.num_heads, config.model.feedforward_size = 2, 64
    return config


def _in_turn(config: Config, run: Callable[[int], float]) -> dict[str, list[float]]:
    """Returns seconds per step of both sides; the first turn, which compiles, is left out."""
    count, repeats = (1, 2) if _SMOKE.value else (_STEPS.value, _REPEATS.value)
    run(1)
    if not _PYTHON.value:
        return result.in_turn({"cmgems_jax": lambda: run(count) / count}, repeats)
    windows_WM = np.random.default_rng(0).integers(0, 4, (64, config.window_bases), np.uint8)
    part_rows = config.batch_size // config.accumulation_steps
    part = Config(**vars(config) | {"batch_size": part_rows, "accumulation_steps": 1})
    with torch_peer(part, windows_WM, python=_PYTHON.value, pad_to=config.data.num_tokens) as (
        peer,
        ask,
    ):
        print(f"PyTorch {peer['torch']} on {peer['device']}: {part_rows} rows per update")
        ask(3)

        def torch_step() -> float:
            """Seconds of as many rows; each part ends in an update, which ours does once."""
            return ask(count * config.accumulation_steps)["seconds"] / count

        return result.in_turn(
            {"torch": torch_step, "cmgems_jax": lambda: run(count) / count}, repeats
        )


if __name__ == "__main__":
    command.run(main)
