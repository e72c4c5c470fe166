"""What a benchmark prints and keeps: medians and spread of repeats taken in turn."""

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cmgems_jax.runtime import run_log

T = TypeVar("T")
FOLDER = Path(__file__).with_name("results")


def in_turn(calls: Mapping[str, Callable[[], T]], repeats: int) -> dict[str, list[T]]:
    """Returns what every call gave, by name; each is made once, then each again.

    A change of the machine's load then falls on all of them alike.
    """
    samples: dict[str, list[T]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            samples[name].append(call())
    return samples


def report(name: str, samples: dict[str, list[float]], *, unit: str, notes: dict[str, Any]) -> None:
    """Prints a table, and writes results/NAME-DEVICE.json.

    Args:
      name: of the benchmark.
      samples: repeats of each thing that was measured; the first is what the others
        are compared with; none where nothing is timed.
      unit: of the samples.
      notes: what else is to be known; dicts are written, not printed.
    """
    environment = run_log.environment()
    environment.pop("command")  # it holds this machine's folders
    device = environment["devices"][0]
    environment["load"] = [round(value, 2) for value in os.getloadavg()]
    first = next((float(np.median(values)) for values in samples.values()), 1.0)
    width = max(map(len, samples), default=0)
    described = (f"{key} {value}" for key, value in notes.items() if not isinstance(value, dict))
    print(f"{len(environment['devices'])} x {device}; " + ", ".join(described))
    rows = {}
    for what, values in samples.items():
        low, median, high = (float(value) for value in np.percentile(values, [25, 50, 75]))
        rows[what] = {"median": median, "quartiles": [low, high], "samples": values}
        print(
            f"{what:<{width}}{median:>12.4g} {unit}   quartiles {low:.4g}..{high:.4g}   "
            f"{median / first:.4g} of the first",
            flush=True,
        )
    content = {"unit": unit, "results": rows, "notes": notes, "environment": environment}
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}-{re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-')}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(path)
