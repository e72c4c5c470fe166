"""The table of published tasks: five of few shots, the 28 sets of GUE; and where one lies."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from cmgems_jax.errors import InputError, did_you_mean


@dataclasses.dataclass(frozen=True)
class Task:
    """A labelled task."""

    name: str  # as its folder below the suite's: "prom_core", "mouse/2"
    suite: str  # "fewshot", "gue" or "own"
    num_classes: int  # or numbers, or labels; 0 = whatever the files hold (own, before loading)
    metric: str  # the main one, of `metrics.NAMES`; "" = that of the labels (own, before loading)
    folder: Path | None = None  # of an own task
    labels: str = "classes"  # of `labels.KINDS`


def _gue(group: str, names: str, num_classes: int = 2) -> tuple[Task, ...]:
    """Returns the sets of one group."""
    return tuple(Task(f"{group}/{name}", "gue", num_classes, "mcc") for name in names.split())


# Five tasks of GeneMask and CM-GEMS.
FEWSHOT = (
    Task("prom_core", "fewshot", 2, "accuracy"),
    Task("prom_300", "fewshot", 2, "accuracy"),
    Task("cohn_enh", "fewshot", 2, "accuracy"),
    Task("splice_40", "fewshot", 3, "accuracy"),
    Task("silencer", "fewshot", 2, "accuracy"),
)
# Genome Understanding Evaluation (Zhou et al. 2024, DNABERT-2, table of data sets).
GUE = (
    *_gue("EMP", "H3 H3K14ac H3K36me3 H3K4me1 H3K4me2 H3K4me3 H3K79me3 H3K9ac H4 H4ac"),
    *_gue("mouse", "0 1 2 3 4"),
    *_gue("prom", "prom_300_all prom_300_notata prom_300_tata"),
    *_gue("prom", "prom_core_all prom_core_notata prom_core_tata"),
    *_gue("splice", "reconstructed", num_classes=3),
    *_gue("tf", "0 1 2 3 4"),
    Task("virus/covid", "gue", 9, "macro_f1"),
)
_TABLE = {task.name: task for task in (*FEWSHOT, *GUE)}


def find(name: str, data_dir: Path) -> Task:
    """Returns the task of this name in the table, or of this path, from here or `data_dir`.

    Raises:
      InputError: no such folder.
    """
    if name in _TABLE:
        folder_of(_TABLE[name], data_dir)
        return _TABLE[name]
    for folder in (Path(name), Path(data_dir) / name):
        if folder.is_dir():
            return Task(folder.resolve().name, "own", 0, "", folder=folder)
    raise InputError(
        f"task {name!r}: no folder {name} (nor below {data_dir}) and no published task."
        f"{did_you_mean(name, _TABLE)} An own task is a folder with train.tsv and test.tsv"
    )


def find_all(names: Sequence[str], data_dir: Path) -> list[Task]:
    """Returns the tasks of these names, each once. See `find`.

    Raises:
      InputError: no such folder, or two folders of one name: results are kept by it.
    """
    by_name: dict[str, Task] = {}
    for name in names:
        task = find(name, data_dir)
        other = by_name.setdefault(task.name, task)
        first, second = (folder_of(one, data_dir).resolve() for one in (other, task))
        if first != second:
            raise InputError(
                f"tasks {first} and {second}: both are called {task.name!r}, the name that "
                "their results are kept by; rename one of the folders"
            )
    return list(by_name.values())


def is_present(task: Task, data_dir: Path) -> bool:
    """Returns whether the folder of a task is there."""
    return any(map(Path.is_dir, _candidates(task, data_dir)))


def folder_of(task: Task, data_dir: Path) -> Path:
    """Returns the folder of a task; InputError where there is none."""
    candidates = _candidates(task, data_dir)
    folder = next(filter(Path.is_dir, candidates), None)
    if folder is None:
        raise InputError(
            f"task {task.name}: no folder {' or '.join(map(str, candidates))}; give the folder "
            "that holds it with --data_dir"
        )
    return folder


def _candidates(task: Task, data_dir: Path) -> list[Path]:
    """Returns where the folder of a task may be."""
    if task.folder is not None:
        return [task.folder]
    return [Path(data_dir) / task.suite / task.name, Path(data_dir) / task.name]
