"""1, 2, 4, 8 devices: what the compiled train program sends between them, and its speed.

    python -m benchmarks.scaling --config=configs/logo6.py --rows=4
    python -m benchmarks.scaling --config=configs/dnabert6.py --rows=64    # several GPUs

Every number of devices is a fresh process. On a CPU the devices are fake ones that share
its cores: there the collectives of the compiled program are counted, against the ideal of
one all-reduce of the gradients, and time says nothing. GPUs are timed too, with the same
rows on each (weak scaling).
"""

import json
import os
import subprocess
import sys
import time
from typing import Any

from absl import flags

from benchmarks import result
from cmgems_jax.errors import InputError
from cmgems_jax.runtime import command

_CONFIG = command.define_config("logo6")
_DEVICES = flags.DEFINE_list("devices", ["1", "2", "4", "8"], "Numbers of devices.")
_ROWS = flags.DEFINE_integer("rows", 4, "Rows a step on each device.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 10, "Timed steps, on GPUs.", lower_bound=1)
_CHILD = flags.DEFINE_bool("child", False, "Used by the program itself.")


def main() -> None:
    """Runs the benchmark, or one of its processes."""
    if _CHILD.value:
        print(json.dumps(_measure()))
        return
    num_gpus = _num_gpus()
    found = {}
    for number in command.integers("devices", _DEVICES.value):
        if num_gpus and number > num_gpus:
            print(f"{number} devices: left out, there are {num_gpus} GPUs")
            continue
        found[number] = _process(number, num_gpus)
    seconds = {f"{n} devices": one.pop("seconds") for n, one in found.items() if one["seconds"]}
    heads = ("devices", "all-reduces", "MB sent", "of ideal", "other collectives", "GFLOP/device")
    print("".join(f"{head:>18}" for head in heads))
    for number, one in found.items():
        sent = one["collectives"].get("all-reduce", {"count": 0, "bytes": 0})
        others = sum(c["count"] for name, c in one["collectives"].items() if name != "all-reduce")
        cells = (
            f"{number}", f"{sent['count']}", f"{sent['bytes'] / 1e6:,.2f}",
            f"{sent['bytes'] / one['gradient_bytes']:.5f}", f"{others}",
            f"{one['flops'] / 1e9:,.1f}",
        )  # fmt: skip
        print("".join(f"{cell:>18}" for cell in cells))
    model = _CONFIG.value.model
    notes = {"rows a device": _ROWS.value, "by devices": {str(n): one for n, one in found.items()}}
    name = f"scaling_{model.num_layers}x{model.hidden_size}"
    result.report(name, seconds, unit="s/step", notes=notes)


def _num_gpus() -> int:
    """Returns how many GPUs a fresh process sees."""
    code = "import jax; print(jax.default_backend(), jax.local_device_count())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    backend, number = done.stdout.split()
    return int(number) if backend == "gpu" else 0


def _process(number: int, num_gpus: int) -> dict[str, Any]:
    """Returns what one fresh process with so many devices measures."""
    if num_gpus:
        devices = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, range(number)))}
    else:
        flag = f"--xla_force_host_platform_device_count={number}"
        devices = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flag}
    line = [sys.executable, "-m", "benchmarks.scaling", *sys.argv[1:], "--child"]
    done = subprocess.run(
        line, env={**os.environ, **devices}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise InputError(f"the process with {number} devices failed: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _measure() -> dict[str, Any]:
    """Returns collectives, costs and, on GPUs, seconds of a step over this process's devices."""
    import jax

    from benchmarks import rows
    from cmgems_jax.plan import hlo
    from cmgems_jax.pmi import table as pmi_table
    from cmgems_jax.pretraining import steps

    config = _CONFIG.value
    config.batch_size, config.accumulation_steps = _ROWS.value * jax.device_count(), 1
    state, train, _ = steps.make(config, pmi_table.ranks_for(config, config.fasta_paths))
    batch = rows.full_batch(config)
    compiled = train.lower(state, batch).compile()
    memory = compiled.memory_analysis()
    gradient_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
    seconds = []
    for repeat in range(2 + _REPEATS.value if jax.default_backend() == "gpu" else 0):
        start = time.perf_counter()
        state, metrics = train(state, batch)
        jax.block_until_ready(metrics)
        if repeat >= 2:  # compiled, and warm
            seconds.append(time.perf_counter() - start)
    return {
        "seconds": seconds,
        "collectives": {
            one.pop("kind"): one for one in hlo.Program(compiled.as_text()).collectives()
        },
        "gradient_bytes": gradient_bytes,
        "flops": compiled.cost_analysis()["flops"],
        "temporary_bytes": memory.temp_size_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
    }


if __name__ == "__main__":
    command.run(main)
