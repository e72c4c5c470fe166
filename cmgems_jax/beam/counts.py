"""n-gram counts of many genomes by an Apache Beam pipeline: one file per worker, then their sum.

Counts are integers and their sum asks for no order, so the result is that of the
local `corpus.count`, whatever the runner and the number of its workers.
"""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cmgems_jax.beam import run
from cmgems_jax.beam.run import Beam, Refusal
from cmgems_jax.pmi import corpus
from cmgems_jax.pmi.corpus import Corpus

if TYPE_CHECKING:
    import apache_beam

_NAME = "counts.pickle"
_Part = tuple[Corpus, tuple[Refusal, ...]]


def count(paths: Sequence[str], k: int, *, settings: Beam, beside: Path) -> Corpus:
    """Returns the counts of files that every worker sees; `InputError` where one is bad.

    The result passes through a folder beside `beside`, unless the options name a remote
    temp_location.
    """
    run.check_inputs(paths)
    with run.results_folder(settings, beside) as folder:
        result = os.path.join(folder, _NAME)

        def build(pipeline: "apache_beam.Pipeline") -> None:
            import apache_beam as beam

            files = pipeline | "files" >> beam.Create(list(enumerate(paths)))
            parts = files | beam.Reshuffle() | "count" >> beam.Map(_count_file, k)
            total = parts | "add" >> beam.CombineGlobally(_add)
            _ = total | "save" >> beam.Map(run.save, result)

        run.run(settings, build)
        whole, refusals = run.load(result)
    run.raise_first(refusals)
    return dataclasses.replace(whole, sha256={path: whole.sha256[path] for path in paths})


def _count_file(item: tuple[int, str], k: int) -> _Part:
    """Returns the counts of one file, or what is wrong with it."""

    def work(copy: str) -> Corpus:
        part = corpus.count([copy], k)
        return dataclasses.replace(part, sha256={item[1]: part.sha256[copy]})

    part, refusals = run.attempt(item, work)
    return part or Corpus(), refusals


def _add(parts: Iterable[_Part]) -> _Part:
    """Returns the sum of some files' counts, and all that is wrong."""
    parts = list(parts)  # of none too: what Beam begins with
    return sum((part for part, _ in parts), Corpus()), sum((bad for _, bad in parts), ())
