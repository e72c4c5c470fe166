"""What a benchmark prints and keeps: medians and spread of repeats taken in turn."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from cmgems_jax import run_log

FOLDER = Path(__file__).with_name("results")


def report(name: str, samples: dict[str, list[float]], *, unit: str, notes: dict[str, Any]) -> None:
    """Prints a table, and writes results/NAME-DEVICE.json.

    Args:
      name: of the benchmark.
      samples: repeats of each thing that was measured; the first is what the others
        are compared with.
      unit: of the samples.
      notes: what else is to be known, plain values.
    """
    environment = run_log.environment()
    environment.pop("command")  # it holds this machine's folders
    device = environment["devices"][0]
    first = float(np.median(next(iter(samples.values()))))
    print(f"{len(environment['devices'])} x {device}; " + ", ".join(_described(notes)))
    rows = {}
    for what, values in samples.items():
        low, median, high = (float(value) for value in np.percentile(values, [25, 50, 75]))
        rows[what] = {"median": median, "quartiles": [low, high], "samples": values}
        print(
            f"{what:<24}{median:>12.4g} {unit}   quartiles {low:.4g}..{high:.4g}   "
            f"{median / first:.3f} of the first",
            flush=True,
        )
    content = {"unit": unit, "results": rows, "notes": notes, "environment": environment}
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}-{re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-')}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(path)


def _described(notes: dict[str, Any]) -> list[str]:
    """Returns the notes as short texts."""
    return [f"{key} {value}" for key, value in notes.items()]
