"""Evaluates pretrained models on labelled tasks, beside the baselines.

    python -m launch.evaluate --checkpoint=runs/a,runs/b --suite=gue --data_dir=data --output=DIR

Fine-tuned and probed, on the same draws as the untrained model, k-mer regression and the majority
class. A stopped suite resumes. Writes results.csv, summary.csv, report.md, results.png.
"""

from absl import flags

from cmgems_jax.downstream.evaluation.settings import MODES, EvaluationSettings
from cmgems_jax.runtime import command

_INIT = EvaluationSettings()
_SUITE = flags.DEFINE_enum("suite", _INIT.suite, ["fewshot", "gue"], "Which tasks.")
_CHECKPOINTS = command.define_checkpoint("Folders of pretraining runs, with commas")
_DATA_DIR = flags.DEFINE_string("data_dir", ".", "Folder that holds fewshot/ and gue/.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder of the results.")
_TASKS = flags.DEFINE_list("tasks", [], "Names, or folders of own tasks; default: all there.")
_SHOTS = flags.DEFINE_list("shots", [*map(str, _INIT.shots)], "Few-shot: training rows per class.")
_DRAWS = flags.DEFINE_integer("draws", None, f"Draws ({_INIT.num_draws}); GUE: trainings (1).", 1)
_MODE = flags.DEFINE_list("mode", list(_INIT.modes), "finetune, probe, or both.")
_HEAD = flags.DEFINE_list("head", [], "features (own tasks' default), cls (published), or both.")
_SEED = flags.DEFINE_integer("seed", _INIT.seed, "Seed of draws and training.", lower_bound=0)
_TASK_FLAGS = command.define_task_flags(_INIT)
_PEAK_LR = flags.DEFINE_float("peak_lr", None, "Of fine-tuning; default: the recipe's.", 0)
_FEATURES = flags.DEFINE_multi_string("features", [], "NAME=FILE.npz: others' embeddings")
_TEST_ROWS = flags.DEFINE_integer("test_rows", _INIT.test_rows, "Score so many rows; 0 = all.", 0)
_AT_ONCE = flags.DEFINE_integer("draws_at_once", None, "Fine-tuned side by side; default: all.", 1)
_BASELINES = flags.DEFINE_bool("baselines", _INIT.baselines, "Untrained, k-mers, majority.")
flags.mark_flag_as_required("output")


def main() -> None:
    """Runs the command."""
    from cmgems_jax.downstream.evaluation import evaluate
    from cmgems_jax.pretraining import compile_cache

    settings = EvaluationSettings(
        suite=_SUITE.value,
        modes=command.choices("mode", _MODE.value, MODES),
        heads=command.choices("head", _HEAD.value, ("features", "cls")),
        tasks=tuple(_TASKS.value),
        shots=command.integers("shots", _SHOTS.value),
        num_draws=_DRAWS.value or (_INIT.num_draws if _SUITE.value == "fewshot" else 1),
        seed=_SEED.value,
        peak_lr=_PEAK_LR.value,
        features=tuple(_FEATURES.value),
        test_rows=_TEST_ROWS.value,
        draws_at_once=_AT_ONCE.value,
        baselines=_BASELINES.value,
        **_TASK_FLAGS(),
    )
    checkpoints = _CHECKPOINTS().split(",")
    compile_cache.use_of(checkpoints[0])
    evaluate.evaluate(checkpoints, _DATA_DIR.value, _OUTPUT.value, settings)


if __name__ == "__main__":
    command.run(main)
