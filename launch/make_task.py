"""Makes a small labelled task: which sequences hold a piece of the synthetic genome's repeat?

    python -m launch.make_task --output=runs/task
    python -m launch.evaluate --tasks=runs/task --checkpoint=runs/demo --output=runs/evaluation

Writes train.tsv and test.tsv (columns sequence, label). The repeat is the one that
data.synthetic_repeats plants: see cmgems_jax/downstream/tasks/synthetic.py.
"""

from pathlib import Path

from absl import flags

from cmgems_jax.runtime import command

_OUTPUT = flags.DEFINE_string("output", None, "Folder to make.")
_NUM_TRAIN = flags.DEFINE_integer("num_train", 2_000, "Training rows.", lower_bound=4)
_NUM_TEST = flags.DEFINE_integer("num_test", 1_000, "Test rows.", lower_bound=4)
_SEED = flags.DEFINE_integer("seed", 0, "The same seed makes the same files.", lower_bound=0)
flags.mark_flag_as_required("output")


def main() -> None:
    """Runs the command."""
    from cmgems_jax.downstream.tasks import synthetic as synthetic_task

    folder = Path(_OUTPUT.value)
    synthetic_task.write(
        folder, num_train=_NUM_TRAIN.value, num_test=_NUM_TEST.value, seed=_SEED.value
    )
    print(f"{folder}: train.tsv ({_NUM_TRAIN.value:,} rows), test.tsv ({_NUM_TEST.value:,} rows)")


if __name__ == "__main__":
    command.run(main)
