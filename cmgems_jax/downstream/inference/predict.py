"""Probabilities, or numbers, of the records of a FASTA file, by a fine-tuned classifier."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pyarrow as pa

from cmgems_jax.downstream.finetuning.classifier import TrainedClassifier, logits_on_strand
from cmgems_jax.downstream.inference import sliding
from cmgems_jax.downstream.inference.settings import DEFAULT_WINDOWS, WindowSettings
from cmgems_jax.downstream.inference.sliding import Records, Survey, Tiling, WindowOutputs
from cmgems_jax.downstream.tasks import labels
from cmgems_jax.errors import InputError, did_you_mean
from cmgems_jax.genome import files as genome_files
from cmgems_jax.genome import input_files, vocabulary
from cmgems_jax.runtime import outputs, parallel


def logits_function(
    classifier: TrainedClassifier, strand: str = "forward"
) -> Callable[[dict, jax.Array], jax.Array]:
    """Returns `(params, bases_BN) -> float32 logits (B, C)`.

    The parameters are an argument, so that they are no constants of a compiled program.
    Of both strands they are such that what is read from them, probabilities or numbers, is the
    mean of the two strands'.
    """
    tokens, network = classifier.config.tokens, classifier.network

    def logits(params: dict, bases_BN: jax.Array) -> jax.Array:
        ids_BL = vocabulary.model_ids(bases_BN, tokens.k, tokens.stride)
        return network.apply({"params": params}, ids_BL)

    return logits_on_strand(logits, strand, classifier.labels)


def predictions_function(
    classifier: TrainedClassifier, strand: str = "forward"
) -> Callable[[dict, jax.Array], jax.Array]:
    """Returns `(params, bases_BN) -> float32 (B, C)`: probabilities, or numbers in their units."""
    logits, read = logits_function(classifier, strand), _READ[classifier.labels]
    return lambda params, bases_BN: read(logits(params, bases_BN))


def program(classifier: TrainedClassifier, strand: str) -> Callable[..., tuple]:
    """Returns `(bases_BN, owned_B2) -> (predictions (B, C),)`, which compiles a shape once."""
    if strand not in classifier.programs:
        function = predictions_function(classifier, strand)
        classifier.programs[strand] = parallel.rows_program(
            lambda params, bases_BN, owned_B2: (function(params, bases_BN),), classifier.params
        )
    return classifier.programs[strand]


def predict(
    classifier: TrainedClassifier,
    fasta: genome_files.Paths,
    output: Path | str,
    settings: WindowSettings = DEFAULT_WINDOWS,
    *,
    each_window: bool | None = None,
) -> Survey:
    """Writes the class probabilities of every record, and prints how fast that went.

    Of a regression it writes the numbers. A record longer than a window is cut into
    overlapping windows, the last of which ends with the record. Memory does not grow with
    the number of records: rows are written as they come. For a track, see `predict_track`.

    Args:
      fasta: files; ambiguous letters become [UNK] tokens.
      output: .tsv or .parquet with columns record, windows, strand, prediction and p_LABEL
        for each label, the mean over the record's windows (where rows have several: the
        names of those from 0.5 on, with ; between); of numbers NAME for each, and no
        prediction. With `each_window`: record, start_0based, end_excluded and the rest.
      settings: of both strands, the mean of their probabilities is given.
      each_window: one row per window in place of one per record; None = where a record is
        longer than a window, for the mean over a long one says little.

    Raises:
      InputError: a bad flag or file; a former output stays as it was.
    """
    records, output = genome_files.Records(input_files.listed(fasta)), Path(output)
    outputs.check_file(output, outputs.TABLE_SUFFIXES)
    windows, tiling, survey = run(classifier, records, settings)
    if each_window is None:
        each_window = survey.num_windows > survey.num_records
        if each_window:
            print("records are longer than a window: one row per window (--nowindows: the mean)")
    start_s = time.perf_counter()
    rows_of = window_predictions if each_window else record_means
    with outputs.table(output, _schema(classifier, each_window)) as add:
        for *where, predicted_C in rows_of(windows):
            add([*where, tiling.strand, *_cells(predicted_C, classifier)])
    sliding.print_summary(survey, tiling, output, time.perf_counter() - start_s)
    return survey


def run(
    classifier: TrainedClassifier, records: Records, settings: WindowSettings
) -> tuple[WindowOutputs, Tiling, Survey]:
    """Returns the windows with what is predicted (C,), how they are cut, and what there is.

    Errors as of `predict`; for the records' means see `record_means`.
    """
    strand = settings.strand or classifier.strand
    tiling = sliding.make_tiling(
        classifier.config.tokens, classifier.max_tokens, settings.window, settings.stride, strand
    )
    survey = sliding.survey(records, tiling)
    windows = sliding.run_windows(
        sliding.read_windows(records, tiling),
        program(classifier, strand),
        tiling,
        batch_size=settings.batch_size,
        num_windows=survey.num_windows,
        description="predicting",
    )
    return windows, tiling, survey


def class_number(classifier: TrainedClassifier, name: str, flag: str) -> int:
    """Returns the index of a class by its name, the last one for ""; else raises `InputError`."""
    names = classifier.label_names
    if name and name not in names:
        raise InputError(
            f"--{flag}={name}: no such class; the classifier knows {', '.join(names)}."
            f"{did_you_mean(name, names)}"
        )
    return names.index(name) if name else len(names) - 1


_READ = {
    labels.CLASSES: jax.nn.softmax,
    labels.MULTILABEL: jax.nn.sigmoid,
    labels.NUMBERS: lambda numbers_BC: numbers_BC,
}


def _schema(classifier: TrainedClassifier, each_window: bool) -> pa.Schema:
    """Names and types of the columns."""
    numbers = ("start_0based", "end_excluded") if each_window else ("windows",)
    names = classifier.label_names
    columns = [("prediction", pa.string()), *((f"p_{name}", pa.float32()) for name in names)]
    if classifier.labels == labels.NUMBERS:
        columns = [(name, pa.float32()) for name in names]
    return pa.schema(
        [
            ("record", pa.string()),
            *((name, pa.int64()) for name in numbers),
            ("strand", pa.string()),
            *columns,
        ]
    )


def _cells(predicted_C: np.ndarray, classifier: TrainedClassifier) -> list:
    """Returns the cells of a row: what is predicted, in words, and the numbers."""
    names = classifier.label_names
    if classifier.labels == labels.NUMBERS:
        return predicted_C.tolist()
    if classifier.labels == labels.MULTILABEL:
        chosen = ";".join(names[label] for label in np.flatnonzero(predicted_C >= 0.5))
    else:
        chosen = names[int(predicted_C.argmax())]
    return [chosen, *predicted_C.tolist()]


def window_predictions(windows: WindowOutputs) -> Iterator[tuple[str, int, int, np.ndarray]]:
    """Yields (record, start, end, what is predicted, float32 (C,)) of every window."""
    for window, (predicted_C,) in windows:
        yield window.record, window.start, window.start + len(window.bases), predicted_C


def record_means(windows: WindowOutputs) -> Iterator[tuple[str, int, np.ndarray]]:
    """Yields (record, its windows, the mean of what is predicted, float64 (C,))."""
    sum_C, num_windows = 0.0, 0
    for window, (predicted_C,) in windows:
        sum_C, num_windows = sum_C + predicted_C.astype(np.float64), num_windows + 1
        if window.is_last:
            yield window.record, num_windows, sum_C / num_windows
            sum_C, num_windows = 0.0, 0
