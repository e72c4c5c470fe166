"""A labelled task without a download: pieces of a repeat in synthetic DNA.

A positive holds a diverged copy of a piece of the repeat that `data.synthetic_repeats` plants in
a synthetic genome; a negative the letters of such a copy, shuffled. Both have the same bases,
and a few labelled rows show few of the repeat's k-mers: who has read the genome knows them all.
"""

from pathlib import Path

import numpy as np

from cmgems_jax.errors import InputError
from cmgems_jax.genome import vocabulary
from cmgems_jax.pmi import table as pmi_table
from cmgems_jax.runtime import outputs
from cmgems_jax.windows import synthetic_genome

NUM_BASES = 60
PIECE_BASES = 40  # of them are the copy's
_HEADER = "sequence\tlabel\n"


def sample(num_rows: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns base codes uint8 (num_rows, 60) and labels int32, 1 = positive, shuffled.

    There are as many positives as negatives; `num_rows` is even.
    """
    bases_NM = synthetic_genome.sample_contigs(pmi_table.grch38_counts(), num_rows, NUM_BASES, rng)
    labels_N = np.arange(num_rows, dtype=np.int32) % 2
    for bases_M, label in zip(bases_NM, labels_N, strict=True):
        copy_M = synthetic_genome.repeat_copy(PIECE_BASES, rng)
        start = int(rng.integers(0, NUM_BASES - PIECE_BASES + 1))
        bases_M[start : start + PIECE_BASES] = copy_M if label else rng.permutation(copy_M)
    order_N = rng.permutation(num_rows)
    return bases_NM[order_N], labels_N[order_N]


def write(folder: Path | str, *, num_train: int, num_test: int, seed: int) -> None:
    """Writes train.tsv and test.tsv (columns sequence, label), of even numbers of rows.

    Raises:
      InputError: `folder` cannot be made, or holds other files.
    """
    folder = Path(folder)
    outputs.check_folder(folder, ("train.tsv", "test.tsv"), ())
    rng = np.random.default_rng(seed)
    texts = {}
    for name, num_rows in (("train.tsv", num_train), ("test.tsv", num_test)):
        rows = zip(*sample(num_rows, rng), strict=True)
        lines = [f"{vocabulary.decode(bases_M)}\t{label}\n" for bases_M, label in rows]
        texts[name] = _HEADER + "".join(lines)
    for name, text in texts.items():
        if (folder / name).exists() and (folder / name).read_text() != text:
            raise InputError(f"{folder / name}: holds another task; give another --output")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text)
