"""What every benchmark ends with: a table on the screen, and benchmarks/results/NAME-DEVICE.json.

The numbers are seconds of repeats that were taken in turn (each kind once, then each
again), so that a change of the machine's load falls on all kinds alike.
"""

import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from cmgems_jax import outputs, run_log

_FOLDER = flags.DEFINE_string(
    "results_dir",
    str(Path(__file__).with_name("results")),
    "Folder of the JSON file; empty = none is written.",
)
_CPU_INFO = Path("/proc/cpuinfo")
_OPTIONAL = ("apache-beam", "torch", "transformers")


def in_turn(calls: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Returns the seconds of every repeat by name; each call is made once, then each again."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            seconds[name].append(call())
    return seconds


def report(
    name: str,
    seconds: Mapping[str, Sequence[float]],
    *,
    case: str = "",
    per_second: Mapping[str, float] | None = None,
    notes: Mapping[str, Any] | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Prints a table of medians and spreads, and writes them with machine and versions.

    Args:
      name: of the benchmark.
      seconds: of every repeat, by kind; ratios are against the first kind.
      case: what sets runs of one benchmark apart, such as the config; each keeps its own
        entry of the file.
      per_second: amount of every unit (bases, windows) that one repeat works through.
      notes: settings, and results that are not seconds; dicts are written, not printed.
      device: None = jax's first.

    Returns:
      The entry that was written.
    """
    kinds = {kind: _spread(values) for kind, values in seconds.items()}
    entry = {
        "machine": machine(),
        "device": device or _device(),
        "notes": dict(notes or {}),
        "seconds": kinds,
        "per_second": {
            unit: {kind: amount / spread["median"] for kind, spread in kinds.items()}
            for unit, amount in (per_second or {}).items()
        },
    }
    print(table(entry))
    if _FOLDER.value:
        print(f"wrote {_write(Path(_FOLDER.value), name, case, entry)}")
    return entry


def table(entry: Mapping[str, Any]) -> str:
    """Returns the text of an entry: medians, quartiles, ratios, amounts a second."""
    cpu, load = entry["machine"]["cpu"], entry["machine"]["load"]
    lines = [f"device: {entry['device']}; {cpu}; load {load[0]:.1f}"]
    notes = entry["notes"].items()
    lines += [f"{name}: {_text(value)}" for name, value in notes if not isinstance(value, dict)]
    kinds, units = entry["seconds"], entry["per_second"]
    if not kinds:
        return "\n".join(lines)
    first = next(iter(kinds.values()))["median"]
    width = max(len(kind) for kind in kinds)
    heads = "".join(f"{unit + '/s':>16}" for unit in units)
    lines.append(f"{'':<{width}}{'median s':>12}{'quartiles':>26}{'ratio':>10}{heads}")
    for kind, spread in kinds.items():
        quartiles = f"{spread['quartiles'][0]:.4g} to {spread['quartiles'][1]:.4g}"
        amounts = "".join(f"{units[unit][kind]:>16,.0f}" for unit in units)
        lines.append(
            f"{kind:<{width}}{spread['median']:>12.4g}{quartiles:>26}"
            f"{spread['median'] / first:>10.4g}{amounts}"
        )
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """Returns what a number depends on: processor, load, versions, commit, time."""
    packages = {}
    for package in (*run_log.PACKAGES, *_OPTIONAL):
        try:
            packages[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cpu": f"{os.cpu_count()} x {_cpu_model()}",
        "load": [round(value, 2) for value in os.getloadavg()],
        "packages": packages,
        "commit": _commit(),
    }


def _spread(values: Sequence[float]) -> dict[str, Any]:
    """Returns median, quartiles, extremes and the repeats themselves."""
    quartiles = [values[0], values[0]]
    if len(values) > 1:
        quartiles = statistics.quantiles(values, n=4, method="inclusive")[::2]
    return {
        "median": statistics.median(values),
        "quartiles": quartiles,
        "extremes": [min(values), max(values)],
        "repeats": list(values),
    }


def _text(value: Any) -> str:
    """Returns a note for the screen."""
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def _device() -> str:
    """Returns jax's devices in words."""
    import jax

    return f"{jax.local_device_count()} x {jax.devices()[0].device_kind}"


def _cpu_model() -> str:
    """Returns the processor's name."""
    if _CPU_INFO.is_file():
        for line in _CPU_INFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    """Returns the commit of the code, with a mark where files differ from it."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def _write(folder: Path, name: str, case: str, entry: Mapping[str, Any]) -> Path:
    """Puts the entry into the file of this benchmark and device; other cases stay."""
    kind = re.sub(r"[^a-z0-9]+", "-", entry["device"].partition(" x ")[2].lower() or "cpu")
    path = folder / f"{name}-{kind.strip('-')}.json"
    cases = json.loads(path.read_text())["cases"] if path.is_file() else {}
    content = {"benchmark": name, "cases": {**cases, case or name: entry}}
    folder.mkdir(parents=True, exist_ok=True)
    with outputs.replaced_file(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n")
    return path
