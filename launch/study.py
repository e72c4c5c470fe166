"""Runs a study: the same pretraining with one thing changed, every arm on the same tasks.

    python -m launch.study --study=strategy --preset=nano --fasta=genome.fa.gz \\
        --data_dir=DATA --output=runs/strategy

Presets: nano (two CPU cores, an hour per strategy study), logo and dnabert (GPUs), or a file. The
same command again resumes; hosts with a common --output share the arms. Writes study.md, CSVs.
"""

import sys
from pathlib import Path

from absl import flags

from cmgems_jax.runtime import command
from cmgems_jax.studies.arms import STUDIES

_STUDY = flags.DEFINE_enum("study", None, list(STUDIES), "Which study.")
_PRESET = flags.DEFINE_string("preset", "nano", "nano, logo, dnabert, or a config file.")
_FASTA = flags.DEFINE_string("fasta", None, "Genome files, with commas.")
_DATA_DIR = flags.DEFINE_string("data_dir", ".", "Folder that holds fewshot/.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder of the study.")
_SEEDS = flags.DEFINE_integer("seeds", 2, "Runs per arm; fewer than 6 claim nothing.", 1)
_STEPS = flags.DEFINE_integer("steps", None, "Steps per run; default: the preset's.", 32)
_ARMS = flags.DEFINE_list("arms", [], "Only these arms; default: all of the study.")
_REFERENCE = flags.DEFINE_string("reference", "", "Compare the arms with this one; no new runs.")
_TASKS = flags.DEFINE_list("tasks", ["prom_core", "splice_40", "silencer"], "Few-shot tasks.")
_SHOTS = flags.DEFINE_list("shots", ["10", "100"], "Training rows per class.")
_DRAWS = flags.DEFINE_integer("draws", 10, "Draws; fewer than 5 claim nothing.", 1)
_MODE = flags.DEFINE_list("mode", ["probe"], "finetune, probe, or both.")
_TEST_ROWS = flags.DEFINE_integer("test_rows", 1000, "Predict at most so many; 0 = all.", 0)
_REUSE = flags.DEFINE_list("reuse", [], "Folders of studies: runs that are the same are copied.")
_PROCESSES = flags.DEFINE_integer("processes", 1, "On this host, one per GPU.", 1)
flags.mark_flags_as_required(["study", "fasta", "output"])


def main() -> None:
    """Runs the command."""
    from cmgems_jax.downstream.evaluation.settings import MODES, EvaluationSettings
    from cmgems_jax.studies import study

    settings = EvaluationSettings(
        suite="fewshot",
        modes=command.choices("mode", _MODE.value, MODES),
        tasks=tuple(_TASKS.value),
        shots=command.integers("shots", _SHOTS.value),
        num_draws=_DRAWS.value,
        long_sequences="window",
        test_rows=_TEST_ROWS.value,
    )
    config = study.preset(_PRESET.value, _FASTA.value, _STEPS.value)
    task_dir, output = Path(_DATA_DIR.value), Path(_OUTPUT.value)
    chosen = (_SEEDS.value, _ARMS.value, _REFERENCE.value)
    plan = study.make_plan(_STUDY.value, _PRESET.value, config, *chosen, settings, task_dir)
    with study.other_processes(_PROCESSES.value, output, sys.argv[1:]):
        study.run(plan, output, [Path(folder) for folder in _REUSE.value])


if __name__ == "__main__":
    command.run(main)
