"""Anyone's embeddings as a line of the tables: a file of vectors, keyed by sequence.

`launch.hf_features` makes such a file from a model of HuggingFace. Probed as our own are.
"""

import dataclasses
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cmgems_jax.downstream.tasks.files import Examples
from cmgems_jax.errors import InputError
from cmgems_jax.genome import files as genome_files
from cmgems_jax.genome import input_files, vocabulary

SEQUENCES, EMBEDDINGS = "sequences", "embeddings"  # arrays of .npz, columns of .parquet
SUFFIXES = (".npz", ".parquet")
_LETTERS_SHOWN = 30
# What numpy and pyarrow raise on damaged files, and on those of another kind.
_UNREADABLE = (
    OSError, ValueError, KeyError, TypeError, EOFError,
    zipfile.BadZipFile, zlib.error, pa.ArrowException,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class GivenFeatures:
    """Vectors of sequences, from a file."""

    name: str  # of the line
    path: Path
    sha256: str  # of the file
    row_of: dict[str, int]  # by sequence, in upper case
    features_NF: np.ndarray  # float32

    def of(self, examples: Examples) -> np.ndarray:
        """Returns float32 (N, F), the vectors of every row; else raises `InputError`."""
        texts = [vocabulary.decode(bases_M) for bases_M in examples.bases_NM]
        missing = [number for number, text in enumerate(texts) if text not in self.row_of]
        if missing:
            first = missing[0]
            raise InputError(
                f"{self.path}: no vector for {len(missing):,} of {len(texts):,} sequences of "
                f"{examples.path}, the first in row {examples.rows_N[first]} "
                f"({texts[first][:_LETTERS_SHOWN]}...); the file must hold all rows of the task: "
                "python -m launch.hf_features --tasks=... makes one"
            )
        return self.features_NF[[self.row_of[text] for text in texts]]


def read(argument: str) -> GivenFeatures:
    """Returns what NAME=FILE names.

    The file is .npz with arrays `sequences` (N,), text, and `embeddings` float (N, F); or .parquet
    with columns of these names.

    Raises:
      InputError: no such file, another content, numbers that are not finite, or a sequence that
        stands in it twice with different vectors.
    """
    name, is_pair, file = argument.partition("=")
    if not (name and is_pair and file):
        raise InputError(f"--features={argument}: expected NAME=FILE, such as nt50m=nt50m.npz")
    path = Path(input_files.expand(file))
    input_files.check(path, f"for --features one of {', '.join(SUFFIXES)}")
    if path.suffix not in SUFFIXES:
        raise InputError(f"--features={argument}: expected a file {' or '.join(SUFFIXES)}")
    try:
        texts, features_NF = (_read_npz if path.suffix == ".npz" else _read_parquet)(path)
    except _UNREADABLE as error:
        raise InputError(
            f"{path}: {error}; expected '{SEQUENCES}' (N,), text, and '{EMBEDDINGS}' (N, F), "
            "numbers"
        ) from error
    if features_NF.ndim != 2 or len(texts) != len(features_NF) or not len(texts):
        raise InputError(
            f"{path}: {len(texts):,} sequences and embeddings {features_NF.shape}; expected one "
            "vector per sequence, and at least one"
        )
    bad = np.flatnonzero(~np.isfinite(features_NF).all(axis=1))
    if len(bad):
        raise InputError(
            f"{path}: the vector of row {bad[0]} is not finite, and {len(bad) - 1:,} more; make it "
            "anew, in float32 where it was made in float16"
        )
    row_of: dict[str, int] = {}
    for number, text in enumerate(texts):
        first = row_of.setdefault(vocabulary.decode(vocabulary.encode(text)), number)
        if first != number and not np.array_equal(features_NF[first], features_NF[number]):
            raise InputError(
                f"{path}: rows {first} and {number} are of the same sequence "
                f"({text[:_LETTERS_SHOWN]}...), with different vectors; keep one"
            )
    return GivenFeatures(name, path, genome_files.sha256(str(path)), row_of, features_NF)


def _read_npz(path: Path) -> tuple[list[str], np.ndarray]:
    """Returns sequences and float32 (N, F) of an .npz."""
    # Opened here: np.load leaves a damaged one open.
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        return list(map(str, file[SEQUENCES])), file[EMBEDDINGS].astype(np.float32)


def _read_parquet(path: Path) -> tuple[list[str], np.ndarray]:
    """Returns sequences and float32 (N, F) of a .parquet."""
    table = pq.read_table(path, columns=[SEQUENCES, EMBEDDINGS])
    return table[SEQUENCES].to_pylist(), np.array(table[EMBEDDINGS].to_pylist(), np.float32)
