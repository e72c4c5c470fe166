"""A labelled task without a download: a planted core-promoter-like signal in synthetic DNA.

A positive holds a TATA box and, 28 to 32 bases behind its start, an initiator
(the order and spacing of real core promoters; `data.synthetic_promoters` plants the same in a
synthetic genome). Of the negatives half hold neither and half hold both in the wrong order or
too close, so that counts of k-mers alone separate at most about three quarters of the rows.
"""

from pathlib import Path

import numpy as np

from cmgems_jax.errors import InputError
from cmgems_jax.genome import vocabulary
from cmgems_jax.pmi import table as pmi_table
from cmgems_jax.windows import synthetic_genome
from cmgems_jax.windows.synthetic_genome import INITIATOR, SPACING, TATA

NUM_BASES = 60
CLOSE = (9, 16)  # SPACING of negatives that hold both motifs in order
_HEADER = "sequence\tlabel\n"


def sample(num_rows: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns base codes uint8 (num_rows, 60) and labels int32, 1 = positive, shuffled.

    There are as many positives as negatives; `num_rows` is even.
    """
    bases_NM = synthetic_genome.sample_contigs(pmi_table.grch38_counts(), num_rows, NUM_BASES, rng)
    labels_N = np.arange(num_rows, dtype=np.int32) % 2
    for number, bases_M in enumerate(bases_NM):
        if labels_N[number]:
            synthetic_genome.plant(bases_M, rng)
        elif number % 4 == 0:
            in_order = rng.random() < 0.5
            pair, spacing = ((TATA, INITIATOR), CLOSE) if in_order else ((INITIATOR, TATA), SPACING)
            synthetic_genome.plant(bases_M, rng, *pair, spacing)
    order_N = rng.permutation(num_rows)
    return bases_NM[order_N], labels_N[order_N]


def write(folder: Path | str, *, num_train: int, num_test: int, seed: int) -> None:
    """Writes train.tsv and test.tsv (columns sequence, label), of even numbers of rows.

    Raises:
      InputError: `folder` holds other files of these names.
    """
    folder = Path(folder)
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
