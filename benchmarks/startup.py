"""Seconds from the command to the second step: import, initial values, first step, cold and warm.

    python -m benchmarks.startup --config=configs/logo6.py --batch_size=8

Every repeat is a fresh process. Cold ones begin with an empty folder of compiled
programs, warm ones with the folder that a cold one filled, as the second start of a
run does (WORKDIR/compile_cache).
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from absl import flags

from benchmarks import result
from cmgems_jax import command
from cmgems_jax.errors import InputError

_CONFIG = command.define_config("logo6")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Rows a step, in one part.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 3, "Fresh processes of each kind.", lower_bound=1)
_CHILD = flags.DEFINE_string("child", "", "Used by the program itself: the work folder to use.")
_PARTS = ("import", "initial values", "first step", "second step")


def main() -> None:
    """Runs the benchmark, or one of its processes."""
    if _CHILD.value:
        print(json.dumps(_start(Path(_CHILD.value))))
        return
    config = _CONFIG.value
    seconds: dict[str, list[float]] = {}
    sizes = []
    for _ in range(_REPEATS.value):
        with tempfile.TemporaryDirectory() as name:
            workdir = Path(name)
            for kind in ("cold", "warm"):
                for part, value in _process(workdir).items():
                    seconds.setdefault(f"{part}, {kind}", []).append(value)
            sizes.append(sum(path.stat().st_size for path in workdir.rglob("*") if path.is_file()))
    notes = {
        "layers": config.model.num_layers,
        "hidden": config.model.hidden_size,
        "rows": _BATCH_SIZE.value,
        "compiled programs, MiB": sizes[-1] / 2**20,
    }
    ordered = {part: seconds[part] for part in sorted(seconds, key=_place)}
    name = f"startup_{config.model.num_layers}x{config.model.hidden_size}"
    result.report(name, ordered, unit="s", notes=notes)


def _place(name: str) -> tuple[bool, int]:
    """Orders the lines: cold, then warm, each from the command on."""
    part, _, kind = name.rpartition(", ")
    return kind == "warm", (*_PARTS, "whole process").index(part)


def _process(workdir: Path) -> dict[str, float]:
    """Returns the seconds of the parts of one fresh process, and of all of it."""
    line = [sys.executable, "-m", "benchmarks.startup", *sys.argv[1:], f"--child={workdir}"]
    start = time.perf_counter()
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    whole = time.perf_counter() - start
    if done.returncode:
        raise InputError(f"a process of the benchmark failed: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1]) | {"whole process": whole}


def _start(workdir: Path) -> dict[str, float]:
    """Returns the seconds of every part of a start."""
    times = [time.perf_counter()]
    import jax

    from benchmarks import rows
    from cmgems_jax import compile_cache, pmi_table, pretrain, steps

    assert pretrain  # what launch.pretrain imports
    times.append(time.perf_counter())
    config = _CONFIG.value
    config.batch_size, config.accumulation_steps = _BATCH_SIZE.value, 1
    compile_cache.use(workdir)
    state, train, _ = steps.make(config, pmi_table.ranks_for(config, config.fasta_paths))
    batch = rows.full_batch(config)
    jax.block_until_ready(state)
    times.append(time.perf_counter())
    for _ in range(2):
        state, metrics = train(state, batch)
        jax.block_until_ready((state, metrics))
        times.append(time.perf_counter())
    durations = (after - before for before, after in zip(times, times[1:], strict=False))
    return dict(zip(_PARTS, durations, strict=True))


if __name__ == "__main__":
    command.run(main)
