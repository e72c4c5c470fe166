"""How far values of `launch.base_track` move when more bases are hidden in one pass.

    python -m benchmarks.spacing --checkpoint=runs/mine --fasta=genome.fa --num_bases=2000

The first bases of a file's first record are scored with several values of --spacing, and set
against those with one hidden base per window.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
from absl import flags

from cmgems_jax.downstream.inference import base_track
from cmgems_jax.downstream.inference.settings import BaseTrackSettings
from cmgems_jax.genome import files, vocabulary
from cmgems_jax.pretraining import pretrained
from cmgems_jax.runtime import command

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "A pretraining run's folder.", required=True)
_FASTA = flags.DEFINE_string("fasta", None, "A genome.", required=True)
_NUM_BASES = flags.DEFINE_integer("num_bases", 2_000, "Of its first record.")
_PER_K = flags.DEFINE_list("spacings", ["2", "3", "4", "6", "10"], "In multiples of k.")


def main() -> None:
    """Runs the command."""
    config = pretrained.load_masked_lm(Path(_CHECKPOINT.value)).config
    k = config.tokens.k
    _, bases = next(files.read_records(_FASTA.value))
    found: dict[int, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as name:
        fasta, output = Path(name) / "part.fa", Path(name) / "out.bedgraph"
        fasta.write_text(f">part\n{vocabulary.decode(bases[: _NUM_BASES.value])}\n")
        for spacing in (config.window_bases, *(int(factor) * k for factor in _PER_K.value)):
            start_s = time.process_time()
            settings = BaseTrackSettings(spacing=spacing)
            base_track.base_track(_CHECKPOINT.value, fasta, output, settings)
            cpu_s = time.process_time() - start_s
            rows = [line.split("\t") for line in output.read_text().splitlines()]
            found[spacing] = np.array([float(row[3]) for row in rows])
            alone = found[config.window_bases]
            print(
                f"spacing {spacing:>4}: mean {found[spacing].mean():.4f} nats; difference from one "
                f"at a time: mean {np.abs(found[spacing] - alone).mean():.4f}, largest "
                f"{np.abs(found[spacing] - alone).max():.3f}; correlation "
                f"{np.corrcoef(found[spacing], alone)[0, 1]:.4f}; {cpu_s:.0f} s of CPU time",
                flush=True,
            )


if __name__ == "__main__":
    command.run(main)
