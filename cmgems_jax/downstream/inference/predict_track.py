"""A class's probability, or a number, along a genome as a track; and regions of the class.

Windows overlap. Bins lie between the positions where a window starts or ends, so that the same
windows cover all of a bin, and its value is their mean.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cmgems_jax.downstream.finetuning.classifier import TrainedClassifier
from cmgems_jax.downstream.inference import predict, sliding, tracks
from cmgems_jax.downstream.inference.sliding import Survey, Tiling, Window, WindowOutputs
from cmgems_jax.downstream.tasks import labels
from cmgems_jax.errors import InputError, did_you_mean
from cmgems_jax.genome import files as genome_files
from cmgems_jax.genome import input_files
from cmgems_jax.genome import reference as reference_lib
from cmgems_jax.genome.reference import Contig, Reference
from cmgems_jax.runtime import outputs

SUFFIXES = (*tracks.SUFFIXES, tracks.REGIONS_SUFFIX)
_BINS_AT_ONCE = 1 << 12
Bin = tuple[str, int, int, np.ndarray]  # contig, start, end, probabilities (C,)


def predict_track(
    classifier: TrainedClassifier,
    fasta: genome_files.Paths,
    output: Path | str,
    *,
    label: str = "",
    window: int | None = None,
    stride: int | None = None,
    batch_size: int = 32,
    strand: str | None = None,
) -> Survey:
    """Writes a track of what a classifier predicts along the contigs of a file.

    Windows are read, and bins written, as they come: memory does not grow with a contig.

    Args:
      classifier: from `classifier.load_classifier`.
      fasta: one file, plain or bgzip; ambiguous letters become [UNK] tokens.
      output: .bedgraph or .bw: the probability (or number) of `label` in each bin. .bed: the
        stretches of bins in which `label` is the likeliest class (where rows have several
        labels: has 0.5 or more); the score is 1,000 times the mean.
      label: name of the class or number; "" = the classifier's last.
      window: bases; None = as many as the classifier was trained on at most.
      stride: bases between the starts of neighbouring windows; None = half a window.
      batch_size: windows that the model sees at a time.
      strand: of `vocabulary.STRANDS`, as for `predict.predict`; None = the classifier's.

    Raises:
      InputError: a bad flag or file; a former output stays as it was.
    """
    paths, output = input_files.listed(fasta), Path(output)
    outputs.check_file(output, SUFFIXES)
    if len(paths) != 1:
        raise InputError(f"--fasta={','.join(paths)}: expected one file for a track, of a genome")
    number = class_number(label, classifier.label_names)
    if output.suffix == tracks.REGIONS_SUFFIX and classifier.labels == labels.NUMBERS:
        raise InputError(f"--output={output}: a regression has no regions; give .bedgraph or .bw")
    strand = strand or classifier.strand
    tiling = sliding.make_tiling(
        classifier.config.tokens, classifier.max_tokens, window, stride, strand
    )
    start_s = time.perf_counter()
    with reference_lib.opened(paths[0]) as reference:
        survey = survey_contigs(reference, tiling)
        windows = sliding.run_windows(
            contig_windows(reference, tiling),
            predict.program(classifier, strand),
            tiling,
            batch_size=batch_size,
            num_windows=survey.num_windows,
            description="predicting",
        )
        if output.suffix == tracks.REGIONS_SUFFIX:
            _write_regions(bins(windows), number, classifier, output)
        else:
            _write_values(bins(windows), number, output, reference)
    sliding.print_summary(survey, tiling, output, time.perf_counter() - start_s, strand)
    return survey


def class_number(label: str, label_names: list[str]) -> int:
    """Returns the index of a class by its name, the last one for ""; else raises `InputError`."""
    if label and label not in label_names:
        raise InputError(
            f"--class={label}: no such class; the classifier knows {', '.join(label_names)}."
            f"{did_you_mean(label, label_names)}"
        )
    return label_names.index(label) if label else len(label_names) - 1


def survey_contigs(reference: Reference, tiling: Tiling) -> Survey:
    """Returns what the windows will come to, from the lengths alone.

    Raises:
      InputError: a contig is shorter than k.
    """
    survey = Survey()
    for name, length in reference.lengths.items():
        if length < tiling.k:
            raise InputError(
                f"{reference.path}: contig '{name}': {length} bases; expected at least "
                f"{tiling.k}, one k-mer of the model; leave it out"
            )
        num_tokens = (length - tiling.k) // tiling.token_stride + 1
        survey.num_records += 1
        survey.num_bases += length
        survey.num_windows += sliding.num_windows(num_tokens, tiling)
    return survey


def contig_windows(reference: Reference, tiling: Tiling) -> Iterator[Window]:
    """Yields the windows of every contig; their bases alone are read."""
    for name in reference.lengths:
        yield from sliding.windows_of(name, Contig(reference, name), tiling)


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
        waiting: list[tuple[int, int, float]] = []
        contig = ""

        def flush() -> None:
            if waiting:
                starts, ends, values = map(np.array, zip(*waiting, strict=True))
                track.add(contig, starts, ends, values)
            waiting.clear()

        for name, start, end, share_C in parts:
            if name != contig or len(waiting) >= _BINS_AT_ONCE:
                flush()
            contig = name
            waiting.append((start, end, float(share_C[number])))
        flush()


def _write_regions(
    parts: Iterator[Bin], number: int, classifier: TrainedClassifier, output: Path
) -> None:
    """Writes a line for each stretch of bins that have the class."""
    label, is_multilabel = classifier.label_names[number], classifier.labels == labels.MULTILABEL
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(outputs.replaced_file(output)).open("w", encoding="utf-8")
        stack.enter_context(file)
        region: list | None = None  # contig, start, end, sum of probabilities over bases

        def flush() -> None:
            if region:
                contig, start, end, total = region
                score = round(1_000 * total / (end - start))
                file.write(f"{contig}\t{start}\t{end}\t{label}\t{score}\n")

        for contig, start, end, share_C in parts:
            if region and (region[:1] != [contig] or region[2] != start):
                flush()
                region = None
            if not (share_C[number] >= 0.5 if is_multilabel else share_C.argmax() == number):
                flush()
                region = None
                continue
            region = region or [contig, start, start, 0.0]
            region[2] = end
            region[3] += float(share_C[number]) * (end - start)
        flush()
