"""What users may set of the evaluations; here stand the defaults of the commands' flags."""

import dataclasses
from typing import Any

from cmgems_jax.downstream.tasks.settings import TaskSettings

MODES = ("finetune", "probe")
# More of these may be added to a folder of results.
ADDABLE = frozenset(
    {"tasks", "shots", "modes", "heads", "peak_lr", "baselines", "draws_at_once", "features"}
)


@dataclasses.dataclass(frozen=True)
class EvaluationSettings(TaskSettings):
    """What is evaluated, and how; a folder of results has one of it."""

    suite: str = "fewshot"  # or "gue"
    modes: tuple[str, ...] = MODES
    tasks: tuple[str, ...] = ()  # names; empty = all of the suite that data_dir holds
    shots: tuple[int, ...] = (10, 100)  # rows per class; of the few-shot suite
    num_draws: int = 10  # of the shots; of whole training sets: trainings
    seed: int = 0  # of the draws, and of training
    heads: tuple[str, ...] = ()  # of fine-tuning; empty = the task's (recipes.default_head)
    peak_lr: float | None = None  # of fine-tuning, in place of the recipes'
    draws_at_once: int | None = None  # fine-tuned side by side; None = all
    baselines: bool = True  # beside the models: one untrained, k-mer regression, majority
    features: tuple[str, ...] = ()  # NAME=FILE, others' embeddings; see `given_features.read`
    test_rows: int = 0  # at most so many rows of test are predicted; 0 = all

    def fixed(self) -> dict[str, Any]:
        """Returns the settings that all results of a folder share."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if name not in ADDABLE}


@dataclasses.dataclass(frozen=True)
class IntrinsicSettings(TaskSettings):
    """What is swept for the intrinsic dimension, and how."""

    dimensions: tuple[int, ...] = (10, 30, 100, 300, 1_000)
    shots: int = 100  # rows per class
    num_draws: int = 3
    seed: int = 0  # of draws, training and projections
    test_rows: int = 1_000  # at most so many are predicted; 0 = all
