"""Checks that a run will work: versions, devices, genome, PMI, one step, one checkpoint.

    python -m launch.doctor
    python -m launch.doctor --config=configs/dnabert6.py --workdir=runs/a \\
        --config.data.fasta=genome.fa.gz

Prints a table, leaves nothing behind, and exits with 1 where something is wrong.
`python -m launch.pretrain ... --dry_run` does the same.
"""

import sys
from pathlib import Path

from absl import flags

from cmgems_jax.runtime import command

_CONFIG = command.define_config("demo")
_INIT_FROM = command.define_init_from()
_WORKDIR = flags.DEFINE_string("workdir", "runs/demo", "Folder of the run to come.")


def main() -> None:
    """Runs the command."""
    from cmgems_jax.huggingface import load
    from cmgems_jax.pretraining import doctor

    config = _INIT_FROM(_CONFIG.value)
    findings = doctor.examine(config, Path(_WORKDIR.value), read_source=load.load_masked_lm)
    if not all(finding.is_well for finding in findings):
        sys.exit(command.EXIT_FAILED)


if __name__ == "__main__":
    command.run(main)
