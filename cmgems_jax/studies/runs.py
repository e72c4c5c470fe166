"""One arm and one seed of a study: pretrained, evaluated, described; never done twice.

A unit's folder is the work folder of its pretraining run, with evaluation/ beside the
checkpoints; unit.json is written last and means that the unit is done. Whoever works
on a unit holds the lock of its claim, so that any number of processes, on one host or
on several with a common folder, may run the same study: each takes what is free.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import jax

from cmgems_jax.config import Config
from cmgems_jax.downstream.evaluation import evaluate
from cmgems_jax.downstream.evaluation.settings import EvaluationSettings
from cmgems_jax.masking import statistics as mask_statistics
from cmgems_jax.pretraining import loop as pretraining_loop
from cmgems_jax.pretraining import run_inputs
from cmgems_jax.runtime import outputs, parallel, run_lock
from cmgems_jax.studies.arms import Arm

DONE_NAME = "unit.json"
EVALUATION = "evaluation"


@dataclasses.dataclass(frozen=True)
class Unit:
    """An arm and a seed."""

    arm: Arm
    seed: int
    config: Config
    folder: Path  # the work folder of its run
    data_dir: Path  # of its windows, which all arms of a seed and k share

    @property
    def name(self) -> str:
        """Returns the name of its folder and of its line in the results."""
        return self.folder.name

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do."""
        return (self.folder / DONE_NAME).is_file()


def folder(output: Path, arm: str, seed: int) -> Path:
    """Returns the work folder of an arm and a seed in a study's folder."""
    return output / "arms" / f"{arm}_seed{seed}"


def unit(arm: Arm, seed: int, config: Config, output: Path) -> Unit:
    """Returns the unit of an arm and a seed in a study's folder."""
    tokens = config.tokens
    windows_name = f"k{tokens.k}_stride{tokens.stride}_seed{seed}"
    data_dir = output / "windows" / windows_name
    return Unit(arm, seed, config, folder(output, arm.name, seed), data_dir)


@contextlib.contextmanager
def claimed(one: Unit, output: Path) -> Iterator[bool]:
    """Yields whether the unit is this process's to do: not done, and claimed by no other."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(run_lock.held(output / "claims" / one.name))
        except run_lock.InUse:
            yield False
            return
        yield not one.is_done


def run(one: Unit, settings: EvaluationSettings, task_dir: Path) -> None:
    """Does what is left of a claimed unit: training, evaluation, its masks, at last unit.json.

    `task_dir` holds fewshot/, or the folders of the tasks.
    """
    config = one.config
    config.data.dir = str(one.data_dir)
    learned = parallel.to_host(pretraining_loop.pretrain(config, one.folder).ranks)
    results = evaluate.evaluate([one.folder], task_dir, one.folder / EVALUATION, settings)
    ranks_V = run_inputs.ranks(config, one.folder) if learned is None else learned.rank_V
    masks = mask_statistics.describe(config, one.data_dir, ranks_V)
    done = {
        "arm": one.arm.name,
        "seed": one.seed,
        "rows": len(results),
        "masks": [dataclasses.asdict(statistics) for statistics in masks],
    }
    outputs.write_json(one.folder / DONE_NAME, done)
    jax.clear_caches()  # the next unit's programs are its own
