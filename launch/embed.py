"""Writes embeddings of the records of a FASTA file.

    python -m launch.embed --checkpoint=DIR --fasta=X.fa.gz --output=out.npz
    python -m launch.embed --checkpoint=DIR --fasta=X.fa.gz --output=out.parquet --pooling=cls

mean and cls: arrays (npz) or columns (parquet) `ids` and `embeddings`, one row per
record. tokens: npz with one array (k-mers, D) under each record's name; parquet
with one row per k-mer. A record longer than the model takes is cut into overlapping
windows; each k-mer counts once, from the window where it stands farther from the edge.
"""

from absl import flags

from cmgems_jax.downstream.inference.settings import WindowSettings
from cmgems_jax.runtime import command

_CHECKPOINT = command.define_checkpoint("Work folder of a pretraining run, or a classifier's")
_FASTA = command.define_paths(
    "fasta", None, "FASTA (plain, gzip, bgzip) or .2bit files.", required=True
)
_OUTPUT = flags.DEFINE_string("output", None, "File to make, .npz or .parquet.", required=True)
_POOLING = flags.DEFINE_enum(
    "pooling", "mean", ["mean", "cls", "tokens"],
    "mean: over the k-mers without ambiguous letters. cls: the state of [CLS]. tokens: all.",
)  # fmt: skip
_WINDOW_FLAGS = command.define_window_flags()


def main() -> None:
    """Runs the command."""
    from cmgems_jax.downstream.inference import embed

    embedder, settings = embed.load_embedder(_CHECKPOINT()), WindowSettings(**_WINDOW_FLAGS())
    embed.embed(embedder, _FASTA.value, _OUTPUT.value, settings, pooling=_POOLING.value)


if __name__ == "__main__":
    command.run(main)
