"""What users may set of a fine-tuning; here stand the defaults of the command's flags."""

import dataclasses

from cmgems_jax.downstream.tasks.settings import TaskSettings


@dataclasses.dataclass(frozen=True)
class FinetuneSettings(TaskSettings):
    """What the command line may change; None = as the recipe of the task has it."""

    seed: int = 0
    head: str = ""  # of heads.CLS and heads.FEATURES
    peak_lr: float | None = None
    num_epochs: int | None = None
    batch_size: int | None = None


@dataclasses.dataclass(frozen=True)
class FeaturesDefaults:
    """The recipe of the features head, by the number of training rows and the encoder's width."""

    few_rows: int = 20  # and fewer
    many_rows: int = 200  # of which more have a rate that falls with their root
    lr_of_few: float = 5e-5  # peak rate at `width`; 2e-4 lost more to the probe (docs/tasks.md)
    lr_of_many: float = 5e-4
    width: int = 128  # the rate is divided by the encoder's over this
    num_epochs: int = 10
    most_rows: int = 100_000  # over all epochs, of which more rows have fewer, but at least one
    batch_size: int = 16
    small_batch_size: int = 5  # of fewer rows than
    small_rows: int = 64
    warmup_share: float = 0.1
    dropout: float = 0.0  # it would shift the features that the head's start was fitted on
    patience: int = 5


_F = FeaturesDefaults
RECIPE_HELP = {  # of the flags; the published recipes stand in recipes.py
    "peak_lr": f"Highest rate; default: features {_F.lr_of_few:g} ({_F.few_rows} rows) to "
    f"{_F.lr_of_many:g} ({_F.many_rows}; of more x root of {_F.many_rows} / rows) x {_F.width} / "
    "width of the encoder; cls: the published 3e-5 to 1e-4.",
    "num_epochs": f"Default: features {_F.num_epochs} (fewer above "
    f"{_F.most_rows // _F.num_epochs:,} rows: {_F.most_rows:,} in all, or one epoch), ended by "
    f"{_F.patience} without a lower loss on dev; cls: the published 3 to 20.",
    "batch_size": f"Rows; default: features {_F.batch_size} (fewer than {_F.small_rows} rows: "
    f"{_F.small_batch_size}); cls: the published 5 to 32.",
}
