"""The scores on resampled test rows, kept beside results.csv for the intervals.

One file: an array of `metrics.resampled` for every draw of every line and unit.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cmgems_jax.downstream.evaluation.statistics import RESAMPLED, UNIT
from cmgems_jax.downstream.tasks import metrics
from cmgems_jax.runtime import outputs

NAME = "resampled.npz"
KEY = ["model", "mode", *UNIT]
_UNKNOWN = np.full((metrics.NUM_RESAMPLES, len(metrics.NAMES)), np.nan, np.float32)


def read(output: Path) -> dict[tuple, np.ndarray]:
    """Returns float32 (draws, resamples, metrics) by `KEY`; nothing where nothing was kept."""
    path = output / NAME
    if not path.exists():
        return {}
    kept = {}
    with np.load(path) as file:
        for name, scores_DBM in file.items():
            missing = len(metrics.NAMES) - scores_DBM.shape[2]  # not known to an earlier version
            kept[tuple(json.loads(name))] = np.pad(
                scores_DBM, ((0, 0), (0, 0), (0, missing)), constant_values=np.nan
            )
    return kept


def write(output: Path, scores: dict[tuple, np.ndarray]) -> None:
    """Replaces the file; `scores` as `read` returns them."""
    with outputs.replaced_file(output / NAME) as part, part.open("wb") as file:
        np.savez(file, **{json.dumps(key): scores_DBM for key, scores_DBM in scores.items()})


def add(output: Path, key: tuple, first: int, scores: Sequence[np.ndarray]) -> None:
    """Keeps the scores of a unit's draws from `first` on; of earlier ones that lack, nan."""
    kept = read(output)
    before = [*kept.get(key, ())][:first]
    before += [_UNKNOWN] * (first - len(before))
    write(output, kept | {key: np.stack([*before, *scores])})


def attach(results: pd.DataFrame, output: Path) -> pd.DataFrame:
    """Returns the rows of results.csv with their resampled scores, nan where none were kept."""
    kept = read(output)
    column = []
    for *key, draw in results[[*KEY, "draw"]].itertuples(index=False, name=None):
        scores_DBM = kept.get(tuple(key), ())
        column.append(scores_DBM[draw] if draw < len(scores_DBM) else _UNKNOWN)
    return results.assign(**{RESAMPLED: pd.Series(column, results.index, object)})
