"""Pretrains a masked-language model on DNA under a masking curriculum.

    python -m launch.pretrain --config=configs/demo.py --workdir=runs/demo
    python -m launch.pretrain --config=configs/logo6.py --workdir=runs/human \\
        --config.data.fasta=genome.fa.gz --config.num_steps=1000
    python -m launch.pretrain --config=configs/logo6.py --workdir=runs/mouse \\
        --config.data.fasta=mouse.fa.gz --init_from=runs/human

Any field of the config can be set on the command line; `cmgems_jax/config.py`
lists them. The same command again resumes from the newest checkpoint.
"""

import sys
from pathlib import Path

from absl import flags

from cmgems_jax.runtime import command

_CONFIG = command.define_config()
_INIT_FROM = command.define_init_from()
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run: metrics, curves, checkpoints; made where it is missing."
)
_RESUME = flags.DEFINE_enum(
    "resume",
    "auto",
    ["auto", "must", "never"],
    "auto: resume from the newest checkpoint, or start. must: no checkpoint is an error. "
    "never: a checkpoint is an error.",
)
_FALLBACK = flags.DEFINE_bool(
    "fallback", False, "Go back to an older checkpoint where the newest is damaged."
)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Only check that the run will work, as launch.doctor; train nothing."
)
_START = command.define_start_flags()
flags.mark_flags_as_required(["config", "workdir"])


def main() -> None:
    """Runs the command."""
    from cmgems_jax.huggingface import load
    from cmgems_jax.pretraining import compile_cache, doctor, loop
    from cmgems_jax.runtime import processes

    processes.start(**_START())
    config, workdir = _INIT_FROM(_CONFIG.value), Path(_WORKDIR.value)
    source = {"read_source": load.load_masked_lm}
    if _DRY_RUN.value:
        findings = doctor.examine(config, workdir, **source)
        sys.exit(0 if all(finding.is_well for finding in findings) else command.EXIT_FAILED)
    compile_cache.use(workdir)
    loop.pretrain(config, workdir, resume=_RESUME.value, fallback=_FALLBACK.value, **source)


if __name__ == "__main__":
    command.run(main)
