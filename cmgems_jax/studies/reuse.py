"""A finished run of another study in place of the same run again.

Studies share runs: the token arms of `corruption` are arms of `strategy`, and so is one
arm of `threshold`, of `kmer` and of `top_m`, and two of `init`. What is copied is the run
and the scores of its model; baselines are the new study's own.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cmgems_jax import config as config_lib
from cmgems_jax.downstream.evaluation import report as evaluation_report
from cmgems_jax.downstream.evaluation import resampled
from cmgems_jax.pmi import table as pmi_table
from cmgems_jax.pretraining import checkpoints, run_inputs
from cmgems_jax.runtime import outputs
from cmgems_jax.studies import runs
from cmgems_jax.studies.runs import Unit
from cmgems_jax.windows import dataset


def find(one: Unit, studies: Sequence[Path]) -> Path | None:
    """Returns the folder of a finished run with the unit's config, seed and input, or None."""
    for study in studies:
        for done in sorted(study.glob(f"arms/*/{runs.DONE_NAME}")):
            if _is_same(one, done.parent):
                return done.parent
    return None


def copy(source: Path, one: Unit, *, with_scores: bool) -> None:
    """Copies a run that `find` returned to the folder of a claimed unit that has not begun.

    It is there whole or not at all; `runs.run` then finds it trained, and evaluates what is
    missing: all, without the scores, which are to be of the same tasks, shots, modes and rows.
    """
    leave = shutil.ignore_patterns(runs.DONE_NAME, runs.EVALUATION, "*.lock")
    with outputs.replaced_folder(one.folder) as partial:
        shutil.copytree(source, partial, ignore=leave, dirs_exist_ok=True)
        if with_scores:
            _copy_scores(source, one, partial / runs.EVALUATION)
        outputs.write_json(partial / "reused.json", {"run": str(source.resolve())})


def _copy_scores(source: Path, one: Unit, evaluation: Path) -> None:
    """Copies the scores of a run's model, under the unit's name."""
    evaluation.mkdir()
    scores = evaluation_report.read_table(source / runs.EVALUATION / "results.csv")
    own = scores[scores.model == source.name].assign(model=one.name)
    own.to_csv(evaluation / "results.csv", index=False)
    kept = resampled.read(source / runs.EVALUATION)
    of_source = [key for key in kept if key[0] == source.name]
    resampled.write(evaluation, {(one.name, *key[1:]): kept[key] for key in of_source})


def _is_same(one: Unit, run: Path) -> bool:
    """Whether a finished run is a unit's; where it recorded no contents, its paths must be."""
    path = run / "config.json"
    config = config_lib.from_dict(json.loads(path.read_text()), source=str(path))
    if checkpoints.binding(config) != checkpoints.binding(one.config):
        return False
    input_before, ranks_V = run_inputs.read(run), run_inputs.read_ranks(run)
    if input_before is None or ranks_V is None:
        paths, paths_now = ((c.data.fasta, c.pmi.table) for c in (config, one.config))
        return paths == paths_now
    if one.config.has_pmi_table:
        if not np.array_equal(ranks_V, pmi_table.ranks_for(one.config, [])):
            return False
    if not one.config.data.fasta:
        return not config.data.fasta
    is_there = all(Path(path).exists() for path in one.config.fasta_paths)
    return is_there and dataset.is_made_of(input_before, one.config)
