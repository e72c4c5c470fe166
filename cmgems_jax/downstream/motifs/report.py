"""The motif command: scores, regions, motifs and maps in one folder, whole or not at all."""

import math
import re
from collections.abc import Callable, Sequence
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
from cmgems_jax.known_motifs import Match
from cmgems_jax.runtime import outputs

OUTPUTS = ("logos", "motifs.meme", "motifs.tsv", "mutagenesis", "regions.tsv")
_MARKS = ("motifs.meme", "motifs.tsv", "regions.tsv")
_MOTIF_COLUMNS = pa.schema(
    [
        ("motif", pa.string()),  # consensus, IUPAC letters
        ("positives", pa.int64()),  # sequences with any of its k-mers
        ("negatives", pa.int64()),
        ("sites", pa.int64()),  # that logo and matrix are of
        ("kmers", pa.string()),
        ("seed", pa.string()),  # its most significant k-mer; the numbers below are its own
        ("seed_positives", pa.int64()),
        ("seed_negatives", pa.int64()),
        ("odds_ratio", pa.float64()),
        ("p", pa.float64()),
        ("q", pa.float64()),
        ("known_motif", pa.string()),  # the nearest of JASPAR's; empty where none were compared
        ("known_id", pa.string()),
        ("known_p", pa.float64()),  # TOMTOM's
        ("known_q", pa.float64()),
        ("strand", pa.string()),  # that the classifier has read
        ("logo", pa.string()),
    ]
)
_REGION_COLUMNS = pa.schema(
    [
        ("record", pa.string()),
        ("start_0based", pa.int64()),
        ("end_excluded", pa.int64()),
        ("set", pa.string()),
        ("sequence", pa.string()),
        ("mean_score", pa.float64()),
    ]
)


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
      classifier: from `classifier.load_classifier`.
      contrast: positives and negatives.
      label: index of the class that the positives are of.
      output: a new or empty folder, or one that this function made.
      settings: how motifs are searched for.
      mapped: rows of the contrast to try every substitution in.
      batch_size: sequences that the model sees at a time.
      strand: of `vocabulary.STRANDS`, that they are read from; None = the classifier's.
      taxon: of `known_motifs.TAXA`, whose known motifs name those that are found, or "none".

    Raises:
      InputError: bad settings or sequences; nothing is written, nothing lost.
    """
    output = Path(output)
    outputs.check_folder(output, OUTPUTS, _MARKS)
    check_settings(settings)
    known = known_motifs.comparison(taxon)
    strand = strand or classifier.strand
    bases_NM, class_name = contrast.bases_NM, classifier.label_names[label]
    reading = {"batch_size": batch_size, "strand": strand}
    scores_NM = attribution.base_scores(classifier, bases_NM, label, **reading)
    motifs, regions_R3, tests = find_motifs(bases_NM, contrast.is_positive_N, scores_NM, settings)
    matches = [known and known.best(motif.frequencies_W4) for motif in motifs]
    with outputs.replaced_folder(output) as folder:
        (folder / "logos").mkdir()
        for rank, (motif, match) in enumerate(zip(motifs, matches, strict=True), 1):
            figures.plot_logo(motif, match, folder / _logo_name(rank, motif))
        _write_table(motifs, matches, strand, folder / "motifs.tsv")
        write_meme(motifs, matches, len(tests.p_K), bases_NM, folder / "motifs.meme")
        _write_regions(contrast, regions_R3, scores_NM, folder / "regions.tsv")
        if mapped:
            effects = attribution.mutagenesis(classifier, label, **reading)
            _write_maps(effects, contrast, mapped, class_name, folder / "mutagenesis")
    num_tested = f"{len(tests.p_K):,} {settings.width}-mers tested; strand: {strand}"
    work = f"{len(regions_R3):,} regions, {num_tested}"
    _print_motifs(motifs, matches, contrast, class_name, work)
    if not motifs:
        _print_what_to_try(settings)
    print(f"wrote {output}", flush=True)
    return motifs


def check_settings(settings: MotifSettings) -> None:
    """Raises `InputError` for a setting out of its range."""
    for name, value, low, high in (
        ("motif_length", settings.width, MIN_WIDTH, MAX_WIDTH),
        ("num_sd", settings.num_sd, 0, 10),
        ("min_region", settings.min_region, 1, settings.max_region),
        ("alpha", settings.alpha, 0, 1),
        ("min_share", settings.min_share, 0, 1),
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
            f"--mutagenesis={value}: no such record; expected one such as "
            f"'{contrast.names[0]}', or a number, the first so many positives"
        )
    return np.flatnonzero(contrast.is_positive_N)[: int(value)].tolist()


def _print_motifs(
    motifs: Sequence[Motif],
    matches: Sequence[Match | None],
    contrast: Contrast,
    class_name: str,
    work: str,
) -> None:
    """Prints the two sets, what was done with them, and one line per motif."""
    num_positives = int(contrast.is_positive_N.sum())
    print(
        f"{num_positives:,} positives (class {class_name}), "
        f"{len(contrast.names) - num_positives:,} negatives; {work}; motifs: {len(motifs)}"
    )
    for motif, match in zip(motifs, matches, strict=True):
        print(
            f"  {motif.consensus:<14} in {motif.positives:,} positives, {motif.negatives:,} "
            f"negatives; {motif.seed}: odds ratio {motif.odds_ratio:.2f}, q = {motif.q:.1e}"
            + (f"; {match}" if match else "")
        )


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


def _write_table(
    motifs: Sequence[Motif], matches: Sequence[Match | None], strand: str, path: Path
) -> None:
    """Writes motifs.tsv."""
    with outputs.table(path, _MOTIF_COLUMNS) as add:
        for rank, (motif, match) in enumerate(zip(motifs, matches, strict=True), 1):
            known = ("", "", math.nan, math.nan)
            if match:
                known = (match.motif.name, match.motif.id, match.p, match.q)
            kmers = ",".join(kmer for kmer, _ in motif.members)
            add(
                (
                    *(motif.consensus, motif.positives, motif.negatives, motif.num_sites, kmers),
                    *(motif.seed, motif.seed_positives, motif.seed_negatives),
                    *(motif.odds_ratio, motif.p, motif.q, *known, strand, _logo_name(rank, motif)),
                )
            )


def write_meme(
    motifs: Sequence[Motif],
    matches: Sequence[Match | None],
    num_tests: int,
    bases_NM: np.ndarray,
    path: Path,
) -> None:
    """Writes the motifs in MEME's minimal format, version 4, as tomtom and fimo read it.

    A motif's alternate name is the known motif's that it is like, else its seed. Its E value
    is its seed's: how many of the tested k-mers would by chance be as significant. MEME's
    readers take a file without one for E = 0.

    Args:
      motifs: most significant first.
      matches: of each, or None.
      num_tests: k-mers that were tested.
      bases_NM: uint8, whose composition is the background.
      path: the file.
    """
    count_4 = np.bincount(bases_NM[bases_NM < vocabulary.AMBIGUOUS], minlength=4)
    share_4 = (count_4 / count_4.sum())[figures.ORDER]
    letters = figures.LETTERS
    background = " ".join(f"{a} {share:.6f}" for a, share in zip(letters, share_4, strict=True))
    lines = [
        "MEME version 4", "", f"ALPHABET= {letters}", "", "strands: +", "",
        "Background letter frequencies", background,
    ]  # fmt: skip
    for rank, (motif, match) in enumerate(zip(motifs, matches, strict=True), 1):
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
    with outputs.table(path, _REGION_COLUMNS) as add:
        for row, start, end in regions_R3.tolist():
            add(
                (
                    *(contrast.names[row], start, end),
                    _side(contrast, row),
                    vocabulary.decode(contrast.bases_NM[row, start:end]),
                    float(scores_NM[row, start:end].mean()),
                )
            )


def _write_maps(
    effects: Callable[[np.ndarray], np.ndarray],
    contrast: Contrast,
    rows: Sequence[int],
    class_name: str,
    folder: Path,
) -> None:
    """Writes the substitutions of some sequences, each as a figure and a table."""
    folder.mkdir()
    columns = [("position_0based", pa.int64()), ("reference", pa.string())]
    schema = pa.schema([*columns, *((letter, pa.float64()) for letter in figures.LETTERS)])
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
        with outputs.table(folder / f"{name}.tsv", schema) as add:
            for position, change_4 in enumerate(change_M4[:, figures.ORDER].tolist()):
                add((position, letters[position], *change_4))
