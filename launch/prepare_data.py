"""Cuts a genome into pretraining windows and stores them as a TFDS data set.

    python -m launch.prepare_data --config=configs/NAME.py --data_dir=DIR \\
        --config.data.fasta=GENOME.fa.gz

`launch.pretrain` does the same on first use; prepare beforehand to share one data
set between runs (give each --config.data.dir=DIR). DIR gets the array_record
files of the splits train and validation, and windows.json: settings, sha256 of
the inputs and of their bases, counts, held-out contigs. A DIR that already holds this data set is
left as it is; one with other settings is refused. With --beam_runner many genomes
are prepared by an Apache Beam pipeline, with the same result (docs/scaling.md).
"""

from pathlib import Path

from absl import flags

from cmgems_jax import config_checks
from cmgems_jax.beam import run as beam_run
from cmgems_jax.genome import input_files
from cmgems_jax.runtime import command

_CONFIG = command.define_config()
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder to make; default: data.dir of the config."
)
_BEAM = beam_run.define_beam_flags()
flags.adopt_module_key_flags(beam_run)
flags.mark_flag_as_required("config")


def main() -> None:
    """Checks the config, then makes or reuses the data set."""
    from cmgems_jax.errors import InputError
    from cmgems_jax.windows import dataset

    config = _CONFIG.value
    config_checks.validate(config)
    data_dir = _DATA_DIR.value or input_files.expand(config.data.dir)
    if not data_dir:
        raise InputError("where should the data set go? Give --data_dir=DIR")
    if beam := _BEAM():
        from cmgems_jax.beam import windows as beam_windows

        beam_windows.prepare(config, data_dir, beam)
    else:
        dataset.prepare(config, Path(data_dir))


if __name__ == "__main__":
    command.run(main)
