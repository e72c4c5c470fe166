"""What users may set of a fine-tuning; here stand the defaults of the command's flags."""

import dataclasses

from cmgems_jax.downstream.tasks.settings import TaskSettings


@dataclasses.dataclass(frozen=True)
class FinetuneSettings(TaskSettings):
    """What the command line may change; None = as the recipe of the task has it."""

    seed: int = 0
    peak_lr: float | None = None
    num_epochs: int | None = None
    batch_size: int | None = None
