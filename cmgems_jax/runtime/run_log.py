"""What a run writes about itself: metrics.jsonl, TensorBoard files, its clock, environment.json."""

import collections
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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
from tensorboardX import SummaryWriter

from cmgems_jax.runtime import outputs

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-datasets")


class Clock:
    """Wall seconds of a run by part, over all the starts that led to its state.

    Every second belongs to one part: a part begun inside another interrupts it, so the
    parts add up to the wall time. What a start did after its last checkpoint is done
    again by the next one, and counts once.

    Attributes:
      steps: done in these seconds.
      starts: that did them; the first step of each is in "compile".
      input_wait_s: seconds of "train" in which the host waited for a batch; the device
        may have been busy meanwhile.
      first_step: of this start, the one that compiles.
    """

    def __init__(self, num_devices: int = 1) -> None:
        """Starts at zero, in the part "setup"."""
        self.steps, self.starts, self.input_wait_s = 0, 1, 0.0
        self._num_devices = num_devices
        self._seconds: collections.Counter[str] = collections.Counter()
        self._device_s = 0.0
        self._part, self._since = "setup", time.perf_counter()
        self.first_step, self._loop_start, self._lap_start = 0, self._since, 0.0

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Counts the time of the block as `part`, then returns to the part around it."""
        around = self._part
        self._begin(part)
        try:
            yield
        finally:
            self._begin(around)

    def _begin(self, part: str) -> None:
        """Ends the running part and begins another."""
        now = time.perf_counter()
        self._seconds[self._part] += now - self._since
        self._device_s += self._num_devices * (now - self._since)
        self._part, self._since = part, now

    def seconds(self, part: str) -> float:
        """Returns the seconds of a part so far."""
        self._begin(self._part)
        return self._seconds[part]

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps of it and the summary shows."""
        self._begin(self._part)
        return {
            "seconds_by_part": dict(self._seconds),
            "input_wait_seconds": self.input_wait_s,
            "device_seconds": self._device_s,
            "timed_steps": self.steps,
            "starts": self.starts,
        }

    def add(self, before: dict[str, Any]) -> None:
        """Adds the `state` of the starts before this one; {} where it is not known."""
        if not before:
            return
        self._seconds.update(before["seconds_by_part"])
        self._device_s += before["device_seconds"]
        self.input_wait_s += before["input_wait_seconds"]
        self.steps += before["timed_steps"]
        self.starts += before["starts"]

    def start_loop(self, step: int) -> None:
        """Begins the part "train": the first step, which compiles, is done."""
        self._begin("train")
        self.first_step, self._loop_start = step, self._since
        self._lap_start = self.seconds("train")

    def lap(self) -> float:
        """Returns the seconds of "train" since the last call, or since `start_loop`."""
        begin, self._lap_start = self._lap_start, self.seconds("train")
        return self._lap_start - begin

    def pace(self, step: int) -> float:
        """Returns the wall seconds per step since `start_loop`, evaluation and saving included."""
        return (time.perf_counter() - self._loop_start) / max(1, step - self.first_step)


class RunLog:
    """Appends records to metrics.jsonl and to TensorBoard files.

    Records beyond the step that a run resumes from are dropped first, so that no
    step is logged twice.
    """

    def __init__(self, workdir: Path, resumed_step: int) -> None:
        """Opens the files; `resumed_step` = 0 starts them anew."""
        self.path = workdir / "metrics.jsonl"
        records = read(self.path) if resumed_step else []
        kept = [one for one in records if one.get("step", 0) <= resumed_step]
        kept = [one for one in kept if one["kind"] != "summary"]
        with outputs.replaced_file(self.path) as partial:
            partial.write_text("".join(json.dumps(record) + "\n" for record in kept))
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
    """The log of every process but the first."""

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Does nothing."""


def _or_null(value: Any) -> Any:
    """JSON knows no NaN and no infinity."""
    if isinstance(value, dict):
        return {name: _or_null(one) for name, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read(path: Path) -> list[dict[str, Any]]:
    """Returns the records of a metrics.jsonl; a last line cut short by a crash is left out."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


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
