"""A class's probability, or a number, along a genome as a track; and regions of the class.

Windows overlap. Bins lie between the positions where a window starts or ends, so that the same
windows cover all of a bin, and its value is their mean.
"""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cmgems_jax.downstream.finetuning.classifier import TrainedClassifier
from cmgems_jax.downstream.inference import predict, sliding, tracks
from cmgems_jax.downstream.inference.settings import DEFAULT_WINDOWS, WindowSettings
from cmgems_jax.downstream.inference.sliding import Survey, WindowOutputs
from cmgems_jax.downstream.tasks import labels
from cmgems_jax.errors import InputError
from cmgems_jax.genome import files as genome_files
from cmgems_jax.genome import input_files
from cmgems_jax.genome import reference as reference_lib
from cmgems_jax.genome.reference import Reference
from cmgems_jax.runtime import outputs

SUFFIXES = (*tracks.SUFFIXES, tracks.REGIONS_SUFFIX)
_BINS_AT_ONCE = 1 << 12
Bin = tuple[str, int, int, np.ndarray]  # contig, start, end, probabilities (C,)


def predict_track(
    classifier: TrainedClassifier,
    fasta: genome_files.Paths,
    output: Path | str,
    settings: WindowSettings = DEFAULT_WINDOWS,
    *,
    label: str = "",
) -> Survey:
    """Writes a track of what a classifier predicts along the contigs of a file.

    Windows are read, and bins written, as they come: memory does not grow with a contig.

    Args:
      fasta: one file, plain or bgzip; ambiguous letters become [UNK] tokens.
      output: .bedgraph or .bw: the probability (or number) of `label` in each bin. .bed: the
        stretches of bins in which `label` is the likeliest class (where rows have several
        labels: has 0.5 or more); the score is 1,000 times the mean.
      label: name of the class or number; "" = the classifier's last.

    Raises:
      InputError: a bad flag or file; a former output stays as it was.
    """
    paths, output = input_files.listed(fasta), Path(output)
    outputs.check_file(output, SUFFIXES)
    if len(paths) != 1:
        raise InputError(f"--fasta={','.join(paths)}: expected one file for a track, of a genome")
    number = predict.class_number(classifier, label, "class")
    if output.suffix == tracks.REGIONS_SUFFIX and classifier.labels == labels.NUMBERS:
        raise InputError(f"--output={output}: a regression has no regions; give .bedgraph or .bw")
    start_s = time.perf_counter()
    with reference_lib.opened(paths[0]) as reference:
        windows, tiling, survey = predict.run(classifier, reference, settings)
        if output.suffix == tracks.REGIONS_SUFFIX:
            _write_regions(bins(windows), number, classifier, output)
        else:
            _write_values(bins(windows), number, output, reference)
    sliding.print_summary(survey, tiling, output, time.perf_counter() - start_s)
    return survey


def bins(windows: WindowOutputs) -> Iterator[Bin]:
    """Yields the bins, each with the mean over the windows that cover it.

    They are in order, do not overlap, and leave no base out that a window covers.
    """
    covering: list[tuple[int, np.ndarray]] = []  # (end, value) of the windows from here on
    edge = 0
    for window, (value_C,) in windows:
        end = window.start + len(window.bases)
        if not covering:
            edge = window.start
        limits = [window.start]
        if window.is_last:  # of the contig: what covers it is known to the end
            limits.append(end)
        for limit in limits:
            while covering and edge < limit:
                stop = min(limit, covering[0][0])
                yield window.record, edge, stop, np.mean([value for _, value in covering], axis=0)
                edge = stop
                covering = [one for one in covering if one[0] > edge]
            if limit == window.start:
                covering.append((end, value_C.astype(np.float64)))


def _write_values(parts: Iterator[Bin], number: int, output: Path, reference: Reference) -> None:
    """Writes the probability of one class in each bin."""
    with tracks.opened(output, reference.lengths) as track:
        for contig, of_contig in itertools.groupby(parts, key=lambda part: part[0]):
            while chunk := list(itertools.islice(of_contig, _BINS_AT_ONCE)):
                _, starts, ends, shares_C = zip(*chunk, strict=True)
                track.add(contig, np.array(starts), np.array(ends), np.array(shares_C)[:, number])


def _write_regions(
    parts: Iterator[Bin], number: int, classifier: TrainedClassifier, output: Path
) -> None:
    """Writes a line for each stretch of bins that have the class."""
    is_multilabel = classifier.labels == labels.MULTILABEL

    def contig_and_class(part: Bin) -> tuple[str, bool]:
        contig, _, _, share_C = part
        return contig, share_C[number] >= 0.5 if is_multilabel else share_C.argmax() == number

    with outputs.replaced_file(output) as partial, partial.open("w", encoding="utf-8") as file:
        for (contig, has_class), stretch in itertools.groupby(parts, key=contig_and_class):
            if not has_class:
                continue
            first, total = None, 0.0
            for _, start, end, share_C in stretch:
                first = start if first is None else first
                total += float(share_C[number]) * (end - start)
            score = round(1_000 * total / (end - first))
            file.write(f"{contig}\t{first}\t{end}\t{classifier.label_names[number]}\t{score}\n")
