"""Which difference between two arms a study of so many seeds can show.

    python -m benchmarks.power --study=runs/difficulty --reference=random_spans

From the seeds that are done: the spread, over seeds, of an arm's mean score less the reference's
(over tasks, shots and draws, paired). Printed is the true difference that a two-sided t-test over
N seeds finds in 80 of 100 studies, at .05, and at .025, where a study is looked at twice.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import scipy.optimize
import scipy.stats
from absl import flags

from cmgems_jax.downstream.evaluation import report
from cmgems_jax.errors import InputError
from cmgems_jax.runtime import command

_STUDY = flags.DEFINE_string("study", None, "Folder of launch.study.", required=True)
_REFERENCE = flags.DEFINE_string("reference", None, "The arm to compare with.", required=True)
_SEEDS = flags.DEFINE_list("seeds", ["6", "8", "12"], "Numbers of seeds.")
POWER, LEVELS = 0.8, (0.05, 0.025)


def detectable(spread: float, num_seeds: int, level: float) -> float:
    """Returns the difference that a paired t-test finds with probability `POWER`.

    `spread` is the standard deviation over seeds; `level` of two sides.
    """
    freedom = num_seeds - 1
    least = scipy.stats.t.isf(level / 2, freedom)

    def miss(shift: float) -> float:
        return float(scipy.stats.nct.cdf(least, freedom, shift)) - (1 - POWER)

    return spread / np.sqrt(num_seeds) * scipy.optimize.brentq(miss, 0, 20)


def scores(study: Path) -> pd.DataFrame:
    """Returns the mean scores of what is done: columns arm, seed, task, shots, score."""
    parts = []
    for done in sorted(study.glob("arms/*/unit.json")):
        arm, _, seed = done.parent.name.rpartition("_seed")
        table = report.read_table(done.parent / "evaluation" / "results.csv")
        own = table[table.model == done.parent.name]
        by_task = (
            own.groupby(["task", "shots"])[own.metric.iloc[0]].mean().rename("score").reset_index()
        )
        parts.append(by_task.assign(arm=arm, seed=int(seed)))
    if not parts:
        raise InputError(
            f"--study={study}: no run of it is done; expected arms/ARM_seedN/unit.json"
        )
    return pd.concat(parts)


def main() -> None:
    """Prints a line per arm."""
    table = scores(Path(_STUDY.value)).groupby(["seed", "arm"]).score.mean().unstack()
    numbers = command.integers("seeds", _SEEDS.value)
    reference = _REFERENCE.value
    if reference not in table:
        raise InputError(f"--reference={reference}: the study has done {', '.join(table)}")
    for arm in table.columns.drop(reference):
        less = (table[arm] - table[reference]).dropna()
        if len(less) < 2:
            continue
        spread = float(less.std())
        shown = (
            f"{number} seeds {' or '.join(f'{detectable(spread, number, p):.4f}' for p in LEVELS)}"
            for number in numbers
        )
        print(
            f"{arm} less {reference}: {len(less)} seeds, spread {spread:.4f}; shown (at .05, or at "
            f".025) is a difference of: {', '.join(shown)}"
        )


if __name__ == "__main__":
    command.run(main)
