"""Finds how few numbers must be trained for a task: its intrinsic dimension, d90.

    python -m launch.intrinsic_dimension --checkpoint=runs/a --task=prom_core --data_dir=DATA \\
        --output=runs/a_dimension

Fine-tunes in random subspaces of growing dimension and in full, on the same draws, and
reports d90, the fewest dimensions that keep 90 % of full fine-tuning (Aghajanyan, Gupta and
Zettlemoyer 2021). Writes dimensions.csv and dimensions.png.
"""

from pathlib import Path

from absl import flags

from cmgems_jax.downstream.evaluation.settings import IntrinsicSettings
from cmgems_jax.runtime import command

_INIT = IntrinsicSettings()
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Work folder of a pretraining run.")
_TASK = flags.DEFINE_string("task", None, "Name of a published task, or folder of an own one.")
_DATA_DIR = flags.DEFINE_string("data_dir", ".", "Folder that holds fewshot/ and gue/.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder to make.")
_COLUMNS = command.define_column_flags()
_DIMENSIONS = flags.DEFINE_list("dimensions", [*map(str, _INIT.dimensions)], "To try.")
_SHOTS = flags.DEFINE_integer("shots", _INIT.shots, "Training rows per class.", 1)
_DRAWS = flags.DEFINE_integer("draws", _INIT.num_draws, "Draws of them.", 1)
_SEED = flags.DEFINE_integer("seed", _INIT.seed, "Of draws, training and subspaces.", 0)
_TEST_ROWS = flags.DEFINE_integer("test_rows", _INIT.test_rows, "Predicted rows; 0 = all.", 0)
flags.mark_flags_as_required(["checkpoint", "task", "output"])


def main() -> None:
    """Runs the command."""
    from cmgems_jax.downstream.evaluation import intrinsic

    settings = IntrinsicSettings(
        dimensions=command.integers("dimensions", _DIMENSIONS.value),
        shots=_SHOTS.value,
        num_draws=_DRAWS.value,
        seed=_SEED.value,
        test_rows=_TEST_ROWS.value,
        **_COLUMNS(),
    )
    folders = Path(_DATA_DIR.value), Path(_OUTPUT.value)
    intrinsic.sweep(Path(_CHECKPOINT.value), _TASK.value, *folders, settings)


if __name__ == "__main__":
    command.run(main)
