"""A finished run of another study in place of the same run again.

Studies share runs: the token arms of `corruption` are arms of `strategy`, and so is one
arm of `threshold`, of `kmer` and of `top_m`, and two of `init`. What is copied is the run
and the scores of its model; baselines are the new study's own.
"""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cmgems_jax import checkpoints, run_log
from cmgems_jax import config as config_lib
from cmgems_jax.config import Config
from cmgems_jax.downstream import evaluation_report, resampled
from cmgems_jax.studies import runs
from cmgems_jax.studies.runs import Unit


def find(one: Unit, studies: Sequence[Path]) -> Path | None:
    """Returns the folder of a finished run with the unit's config and seed, or None."""
    wanted = _identity(one.config)
    for study in studies:
        for done in sorted(study.glob(f"arms/*/{runs.DONE_NAME}")):
            values = json.loads((done.parent / "config.json").read_text())
            config = config_lib.from_dict(values, source=str(done.parent / "config.json"))
            if _identity(config) == wanted:
                return done.parent
    return None


def copy(source: Path, one: Unit) -> None:
    """Copies a finished run to the folder of a unit that has not begun, whole or not at all.

    `runs.run` then finds it trained, and evaluates what is missing.

    Args:
      source: folder that `find` returned.
      one: claimed by this process.
    """
    partial = one.folder.with_name(f".{one.folder.name}.incomplete-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    leave = shutil.ignore_patterns(runs.DONE_NAME, runs.EVALUATION, "*.lock")
    shutil.copytree(source, partial, ignore=leave)
    evaluation = partial / runs.EVALUATION
    evaluation.mkdir()
    scores = evaluation_report.read_table(source / runs.EVALUATION / "results.csv")
    own = scores[scores.model == source.name].assign(model=one.name)
    own.to_csv(evaluation / "results.csv", index=False)
    kept = resampled.read(source / runs.EVALUATION)
    renamed = {(one.name, *key): kept[model, *key] for model, *key in kept if model == source.name}
    resampled.write(evaluation, renamed)
    run_log.write_json(partial / "reused.json", {"run": str(source.resolve())})
    partial.rename(one.folder)


def _identity(config: Config) -> dict[str, Any]:
    """Returns the fields that make a run what it is."""
    fields = config_lib.flatten(config)
    return {name: value for name, value in fields.items() if name not in checkpoints.FREE_FIELDS}
