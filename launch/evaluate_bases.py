"""Compares models of any k, masking and origin by the nats of hidden bases, on the same windows.

    python -m launch.evaluate_bases --checkpoint=runs/a,runs/b/checkpoints/500 --data_dir=DATA \\
        --output=bases.tsv

Bases of the validation windows of a prepared data set (launch.prepare_data) are hidden one at a
time, and in runs; each model gives every hidden base four probabilities (docs/method.md). Lower
is better, 1.386 is a guess. Beside the models stand tables of 6-mers, counted in the training
windows: composition, the five bases before, and both flanks.
"""

from pathlib import Path

from absl import flags

from cmgems_jax.errors import InputError
from cmgems_jax.runtime import command

_CHECKPOINT = flags.DEFINE_list(
    "checkpoint", None, "Work folders of runs or imports, or WORKDIR/checkpoints/STEP."
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of a prepared data set.")
_OUTPUT = flags.DEFINE_string("output", None, "The .tsv or .parquet to write.")
_RUN = flags.DEFINE_integer("run", 6, "Bases hidden at a time, beside one.", 1)
_WINDOWS = flags.DEFINE_integer("windows", 2_000, "At most; 0 = all.", 0)
flags.mark_flags_as_required(["checkpoint", "data_dir", "output"])


def main() -> None:
    """Runs the command."""
    from cmgems_jax.pretraining import base_table, compile_cache

    checkpoints = [Path(path) for path in _CHECKPOINT.value]
    if not checkpoints:
        raise InputError("--checkpoint: empty; expected folders of runs or imports, with commas")
    compile_cache.use_of(checkpoints[0])
    base_table.evaluate(
        checkpoints,
        Path(_DATA_DIR.value),
        Path(_OUTPUT.value),
        run=_RUN.value,
        num_windows=_WINDOWS.value,
    )


if __name__ == "__main__":
    command.run(main)
