"""The motif command: scores, regions, motifs and maps in one folder, whole or not at all."""

import math
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pyarrow as pa

from cmgems_jax import known_motifs
from cmgems_jax.downstream.finetuning.classifier import TrainedClassifier
from cmgems_jax.downstream.motifs import attribution, figures
from cmgems_jax.downstream.motifs.contrast import Contrast
from cmgems_jax.downstream.motifs.enrichment import MAX_WIDTH, MIN_WIDTH, MotifSettings
from cmgems_jax.downstream.motifs.motifs import Motif, find_motifs
from cmgems_jax.errors import InputError
from cmgems_jax.genome import vocabulary
from cmgems_jax.runtime import outputs

OUTPUTS = ("logos", "motifs.meme", "motifs.tsv", "mutagenesis", "regions.tsv")
_MARKS = ("motifs.meme", "motifs.tsv", "regions.tsv")
# Of `Motif`; the numbers behind the seed are its own.
_MOTIF_COLUMNS = (
    "motif positives negatives sites kmers seed seed_positives seed_negatives odds_ratio p q "
    "known_motif known_id known_p known_q strand logo"
)
_REGION_COLUMNS = "record start_0based end_excluded set sequence mean_score"
_MAP_COLUMNS = "position_0based reference A C G T"


def write_motifs(
    classifier: TrainedClassifier,
    contrast: Contrast,
    label: int,
    output: Path | str,
    settings: MotifSettings,
    *,
    mapped: Sequence[int] = (),
    batch_size: int = 32,
    strand: str | None = None,
    taxon: str = known_motifs.NONE,
) -> list[Motif]:
    """Writes what the classifier looks at in the positives, and prints the motifs.

    OUTPUT gets motifs.tsv, motifs.meme (MEME minimal format), logos/*.png, regions.tsv
    (high-scoring regions of both sets), and mutagenesis/NAME.{png,tsv} for the rows of
    `mapped`. The tests are valid for sequences that the classifier was not trained on.

    Args:
      label: index of the class that the positives are of.
      output: a new or empty folder, or one that this function made.
      mapped: rows of the contrast to try every substitution in.
      strand: of `vocabulary.STRANDS`, that sequences are read from; None = the classifier's.
      taxon: of `known_motifs.TAXA`, whose known motifs name those that are found, or "none".

    Raises:
      InputError: bad settings or sequences; nothing is written, nothing lost.
    """
    output, strand = Path(output), strand or classifier.strand
    outputs.check_folder(output, OUTPUTS, _MARKS)
    check_settings(settings)
    attribution.check_length(classifier, contrast.bases_NM, contrast.names)
    known = known_motifs.comparison(taxon)
    bases_NM, class_name = contrast.bases_NM, classifier.label_names[label]
    reading = {"batch_size": batch_size, "strand": strand}
    scores_NM = attribution.base_scores(classifier, bases_NM, label, **reading)
    motifs, regions_R3, tests = find_motifs(bases_NM, contrast.is_positive_N, scores_NM, settings)
    if known:
        for motif in motifs:
            motif.match = known.best(motif.frequencies_W4)
    with outputs.replaced_folder(output) as folder:
        (folder / "logos").mkdir()
        for rank, motif in enumerate(motifs, 1):
            figures.plot_logo(motif, folder / _logo_name(rank, motif))
        _write_table(motifs, strand, folder / "motifs.tsv")
        write_meme(motifs, len(tests.p_K), bases_NM, folder / "motifs.meme")
        _write_regions(contrast, regions_R3, scores_NM, folder / "regions.tsv")
        if mapped:
            effects = attribution.mutagenesis(classifier, label, **reading)
            _write_maps(effects, contrast, mapped, class_name, folder / "mutagenesis")
    print(
        f"{contrast.sizes['positives']:,} positives (class {class_name}), "
        f"{contrast.sizes['negatives']:,} negatives; {len(regions_R3):,} regions, "
        f"{len(tests.p_K):,} {settings.width}-mers tested; strand: {strand}; motifs: {len(motifs)}"
    )
    for motif in motifs:
        print(f"  {motif}")
    if not motifs:
        _print_what_to_try(settings)
    print(f"wrote {output}", flush=True)
    return motifs


def check_settings(settings: MotifSettings) -> None:
    """Raises `InputError` for a setting out of its range."""
    for name, value, low, high in (
        ("motif_length", settings.width, MIN_WIDTH, MAX_WIDTH),
        ("num_sd", settings.num_sd, 0, 10),
        ("alpha", settings.alpha, 0, 1),
    ):
        if not low <= value <= high:
            raise InputError(f"--{name}={value}: expected {low} to {high}")


def rows_to_map(contrast: Contrast, value: str) -> list[int]:
    """Returns the rows of --mutagenesis: a record's name, or how many positives, else raises."""
    if not value:
        return []
    if value in contrast.names:
        return [contrast.names.index(value)]
    if not value.isdecimal():
        raise InputError(
            f"--mutagenesis={value}: no such record, or none that --limit left; expected one such "
            f"as '{contrast.names[0]}', or a number, the first so many positives"
        )
    return np.flatnonzero(contrast.is_positive_N)[: int(value)].tolist()


def _print_what_to_try(settings: MotifSettings) -> None:
    """Prints what may find a motif where none was found."""
    shorter_or_longer = " or ".join(
        str(width)
        for width in (settings.width - 1, settings.width + 2)
        if MIN_WIDTH <= width <= MAX_WIDTH
    )
    print(
        f"no k-mer of the regions is enriched at q <= {settings.alpha:g}. What may help: more "
        f"sequences of either side (--limit, hundreds at least); --motif_length={shorter_or_longer}"
        f"; wider regions (--num_sd={settings.num_sd / 2:g}); a larger --alpha; another "
        "--label. Where the classifier's test scores (metrics.json) are near chance there is "
        "nothing to find: train it on more rows, or from a better checkpoint"
    )


def _logo_name(rank: int, motif: Motif) -> str:
    """Returns the file of a logo, relative to the output folder."""
    return f"logos/{rank:02d}_{motif.consensus}.png"


def _table(path: Path, columns: str) -> AbstractContextManager[Callable[[Sequence], None]]:
    """Returns `outputs.table` of a .tsv, which needs no types."""
    return outputs.table(path, pa.schema([(name, pa.string()) for name in columns.split()]))


def _write_table(motifs: Sequence[Motif], strand: str, path: Path) -> None:
    """Writes motifs.tsv."""
    with _table(path, _MOTIF_COLUMNS) as add:
        for rank, motif in enumerate(motifs, 1):
            known = ("", "", math.nan, math.nan)
            if match := motif.match:
                known = (match.motif.name, match.motif.id, match.p, match.q)
            kmers = ",".join(kmer for kmer, _ in motif.members)
            found = (motif.consensus, motif.positives, motif.negatives, motif.num_sites, kmers)
            seed = (motif.seed, motif.seed_positives, motif.seed_negatives)
            tests = (motif.odds_ratio, motif.p, motif.q)
            add((*found, *seed, *tests, *known, strand, _logo_name(rank, motif)))


def write_meme(motifs: Sequence[Motif], num_tests: int, bases_NM: np.ndarray, path: Path) -> None:
    """Writes the motifs in MEME's minimal format, version 4, as tomtom and fimo read it.

    A motif's alternate name is the known motif's that it is like, else its seed. Its E value
    is its seed's: how many of the tested k-mers would by chance be as significant. MEME's
    readers take a file without one for E = 0.

    Args:
      motifs: most significant first.
      num_tests: k-mers that were tested.
      bases_NM: uint8, whose composition is the background.
    """
    count_4 = np.bincount(bases_NM[bases_NM < vocabulary.AMBIGUOUS], minlength=4)
    share_4 = (count_4 / count_4.sum())[figures.ORDER]
    letters = figures.LETTERS
    background = " ".join(f"{a} {share:.6f}" for a, share in zip(letters, share_4, strict=True))
    lines = [
        "MEME version 4", "", f"ALPHABET= {letters}", "", "strands: +", "",
        "Background letter frequencies", background,
    ]  # fmt: skip
    for rank, motif in enumerate(motifs, 1):
        match = motif.match
        name = match.motif.name if match and match.is_significant else motif.seed
        lines += [
            "",
            f"MOTIF {rank}_{motif.consensus} {name}",
            f"letter-probability matrix: alength= 4 w= {len(motif.frequencies_W4)} "
            f"nsites= {motif.num_sites} E= {motif.p * num_tests:.2e}",
        ]
        lines += [
            " ".join(f"{value:.6f}" for value in row)
            for row in motif.frequencies_W4[:, figures.ORDER]
        ]
    path.write_text("\n".join(lines) + "\n")


def _side(contrast: Contrast, row: int) -> str:
    """Returns the set that a sequence belongs to."""
    return "positive" if contrast.is_positive_N[row] else "negative"


def _write_regions(
    contrast: Contrast, regions_R3: np.ndarray, scores_NM: np.ndarray, path: Path
) -> None:
    """Writes regions.tsv."""
    with _table(path, _REGION_COLUMNS) as add:
        for row, start, end in regions_R3.tolist():
            sequence = vocabulary.decode(contrast.bases_NM[row, start:end])
            score = float(scores_NM[row, start:end].mean())
            add((contrast.names[row], start, end, _side(contrast, row), sequence, score))


def _write_maps(
    effects: Callable[[np.ndarray], np.ndarray],
    contrast: Contrast,
    rows: Sequence[int],
    class_name: str,
    folder: Path,
) -> None:
    """Writes the substitutions of some sequences, each as a figure and a table."""
    folder.mkdir()
    for row in rows:
        bases_M = contrast.bases_NM[row]
        bases_M = bases_M[bases_M != vocabulary.PADDING]
        change_M4 = effects(bases_M)
        name = re.sub(r"[^\w.-]", "_", contrast.names[row])
        title = (
            f"{contrast.names[row]} ({_side(contrast, row)}): change of the log-odds of class "
            f"{class_name} by every substitution"
        )
        figures.plot_mutagenesis(change_M4, bases_M, title, folder / f"{name}.png")
        letters = vocabulary.decode(bases_M)
        with _table(folder / f"{name}.tsv", _MAP_COLUMNS) as add:
            for position, change_4 in enumerate(change_M4[:, figures.ORDER].tolist()):
                add((position, letters[position], *change_4))
