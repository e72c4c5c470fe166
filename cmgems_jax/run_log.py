"""What a run writes about itself: metrics.jsonl, TensorBoard files, the progress line."""

import contextlib
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jax
from tensorboardX import SummaryWriter

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-datasets")


class Clock:
    """Seconds by part of the run, and what is left of it."""

    def __init__(self) -> None:
        """Starts at zero."""
        self.seconds: dict[str, float] = {}
        self._start = time.perf_counter()
        self._loop_start: tuple[int, float] | None = None

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Adds the time of the block to `part`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start

    def total(self) -> float:
        """Returns the seconds since the clock was made."""
        return time.perf_counter() - self._start

    def start_loop(self, step: int) -> None:
        """Marks the step after which `eta` measures: the first one, which compiles, is done."""
        self._loop_start = (step, time.perf_counter())

    def pace(self, step: int) -> float:
        """Returns the wall seconds a step since `start_loop`, evaluation and saving included."""
        first, start = self._loop_start or (0, self._start)
        return (time.perf_counter() - start) / max(1, step - first)


class RunLog:
    """Appends records to metrics.jsonl and to TensorBoard files.

    Records beyond the step that a run resumes from are dropped first, so that no
    step is logged twice.
    """

    def __init__(self, workdir: Path, resumed_step: int) -> None:
        """Opens the files; `resumed_step` = 0 starts them anew."""
        self.path = workdir / "metrics.jsonl"
        kept = [record for record in read(self.path) if record.get("step", 0) <= resumed_step]
        kept = [record for record in kept if record["kind"] != "summary"] if resumed_step else []
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(record) + "\n" for record in kept))
        os.replace(partial, self.path)
        self._file = self.path.open("a")
        self._board = SummaryWriter(
            str(workdir / "tensorboard"), purge_step=resumed_step + 1 if resumed_step else None
        )

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Appends one record (NaN and infinity as null); numbers go to TensorBoard too."""
        record = {"kind": kind, "step": step, **{n: _or_null(v) for n, v in values.items()}}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        for name, value in record.items():
            if isinstance(value, int | float) and name != "step":
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Flushes and closes the files."""
        self._file.close()
        self._board.close()


class NoLog:
    """Writes nothing: the log of every process but the first."""

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


def _or_null(value: Any) -> Any:
    """JSON knows no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read(path: Path) -> list[dict[str, Any]]:
    """Returns the records of a metrics.jsonl; a last line cut short by a crash is left out."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def progress_line(step: int, num_steps: int, values: dict[str, Any], seconds_a_step: float) -> str:
    """Returns the line that a run prints every `log_every` steps."""
    eta = timedelta(seconds=round(seconds_a_step * (num_steps - step)))
    return (
        f"step {step:>7,}/{num_steps:,}  loss {values['loss']:.3f}  "
        f"ppl {math.exp(min(values['loss'], 50)):,.1f}  {values['stage']}  "
        f"masked {values['masked_fraction']:.1%}, "
        f"none in {values['windows_without_mask']:.1%} of windows  "
        f"nats/hidden base {values['nats_per_hidden_base']:.3f}  "
        f"{values['bases_per_second'] / 1e3:,.1f} kbases/s  "
        f"{seconds_a_step:.3f} s/step  ETA {eta}"
    )


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes JSON, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(values, indent=2) + "\n")
    os.replace(partial, path)


def environment() -> dict[str, Any]:
    """Returns versions, devices, host and time, for environment.json."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "backend": jax.default_backend(),
        "devices": [device.device_kind for device in jax.devices()],
        "processes": jax.process_count(),
        "commit": _commit(),
        "command": " ".join(sys.argv),
    }


def _commit() -> str | None:
    """Returns the git commit of the code, where it is a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return None
    return result.stdout.strip() or None
