"""Fine-tunes one classifier on the whole train split of a labelled task.

    python -m launch.finetune --checkpoint=runs/a --task=prom_core --data_dir=data \\
        --output=runs/a_prom_core
    python -m launch.finetune --checkpoint=runs/a --task=my_task --output=runs/a_my_task

A task is a published one in DATA_DIR, or a folder with train, test and perhaps dev (or val), as
.tsv or .csv (.gz too). --head=features (own tasks) starts at logistic regression on what the
encoder makes of a sequence, and trains all; cls (published tasks) is the published classifier over
[CLS]. The epoch of the least loss on dev is kept; without a dev split a tenth of every class's
train rows is held out. Interrupted (Ctrl-C), it keeps the best so far. OUTPUT gets
classifier.safetensors and .json (for launch.predict, embed and motifs) and metrics.json. For many
draws and comparisons: launch.evaluate.
"""

from pathlib import Path

from absl import flags

from cmgems_jax.downstream.finetuning.settings import RECIPE_HELP, FinetuneSettings
from cmgems_jax.runtime import command

_CHECKPOINT = command.define_checkpoint("A pretraining run's folder, or CHECKPOINTS/STEP in it")
_TASK = flags.DEFINE_string("task", None, "Name of a published task, or folder of an own one.")
_DATA_DIR = flags.DEFINE_string("data_dir", ".", "Folder that holds fewshot/ and gue/.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder to make.")
_SEED = flags.DEFINE_integer("seed", FinetuneSettings.seed, "Of order, head and dropout.", 0)
_HEAD = flags.DEFINE_enum("head", None, ["features", "cls"], "Default: features for own tasks.")
_PEAK_LR = flags.DEFINE_float("peak_lr", None, RECIPE_HELP["peak_lr"], lower_bound=0)
_EPOCHS = flags.DEFINE_integer("epochs", None, RECIPE_HELP["num_epochs"], lower_bound=1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, RECIPE_HELP["batch_size"], lower_bound=1)
_TASK_FLAGS = command.define_task_flags(FinetuneSettings())
flags.mark_flags_as_required(["task", "output"])


def main() -> None:
    """Runs the command."""
    from cmgems_jax.downstream.finetuning import train_classifier
    from cmgems_jax.pretraining import compile_cache

    settings = FinetuneSettings(
        seed=_SEED.value,
        head=_HEAD.value or FinetuneSettings.head,
        peak_lr=_PEAK_LR.value,
        num_epochs=_EPOCHS.value,
        batch_size=_BATCH_SIZE.value,
        **_TASK_FLAGS(),
    )
    checkpoint = _CHECKPOINT()
    compile_cache.use_of(checkpoint)
    train_classifier.train_classifier(
        Path(checkpoint), _TASK.value, Path(_DATA_DIR.value), Path(_OUTPUT.value), settings
    )


if __name__ == "__main__":
    command.run(main)
