"""How a classifier is trained: the published recipes, and that of the features head."""

import dataclasses
import math

import optax

from cmgems_jax.config import Config, OptimizerConfig
from cmgems_jax.downstream.finetuning.settings import FeaturesDefaults
from cmgems_jax.downstream.tasks.table import Task
from cmgems_jax.errors import InputError
from cmgems_jax.model import heads
from cmgems_jax.pretraining import optimizer

_FEW_SHOTS = 100  # rows per class; above, the recipe of 500 and 1,000
_EPOCHS_BY_SET = {
    "prom/prom_core_tata": 10,
    "prom/prom_300_tata": 10,
}
_EPOCHS_BY_GROUP = {"EMP": 3, "prom": 4, "splice": 5, "virus": 9, "mouse": 5, "tf": 3}
_MAX_STEPS_BY_GROUP = {"mouse": 1_000}
_WARMUP_STEPS_BY_GROUP = {"mouse": 30, "tf": 30}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Learning rate, length and regularisation of one training; AdamW as BERT's."""

    peak_lr: float
    num_epochs: int
    batch_size: int  # sequences per step, of one draw
    warmup_share: float = 0.0  # of the steps, linear from 0
    warmup_steps: int = 0  # the longer of the two counts; at most half of the steps
    max_steps: int = 0  # 0 = all epochs
    weight_decay: float = 0.01  # not on biases and LayerNorm
    dropout: float = 0.1  # of embeddings, sublayers and the pooled state; that of the
    # attention weights is the pretraining config's (DNABERT 0.1, LOGO 0)
    clip_norm: float = 1.0  # global norm of the gradient
    reverse_complement: bool = False  # each step reads a sequence from a strand drawn for it
    strand: str = "forward"  # of `vocabulary.STRANDS`, that dev and test are predicted from
    subspace: int = 0  # dimensions of a random subspace that is trained; 0 = all parameters
    head: str = heads.CLS  # or heads.FEATURES, which starts at the probe's solution
    decay: str = "linear"  # of the rate, to 0; or "cosine"
    patience: int = 0  # epochs without a lower loss on dev that end the training; 0 = none do

    def steps_per_epoch(self, num_rows: int) -> int:
        """Returns the number of batches, the last of which may be smaller."""
        return -(-num_rows // self.batch_size)

    def num_steps(self, num_rows: int) -> int:
        """Returns the number of updates on `num_rows` rows."""
        steps = self.num_epochs * self.steps_per_epoch(num_rows)
        return min(steps, self.max_steps) if self.max_steps else steps

    def num_warmup_steps(self, num_steps: int) -> int:
        """Returns the steps until the peak."""
        longer = max(self.warmup_steps, int(self.warmup_share * num_steps))
        return min(longer, num_steps // 2)


def choose(
    task: Task,
    shots: int,
    *,
    head: str = "",
    width: int,
    num_rows: int,
    **changes: float | str | None,
) -> Recipe:
    """Returns the recipe of a task: published, or for an own one that of the features head.

    Args:
      shots: training rows per class that are drawn; 0 = all rows.
      head: heads.CLS or heads.FEATURES; "" = the task's: FEATURES for own ones.
      width: of the encoder, its hidden size.
      num_rows: that are trained on.
      **changes: of the recipe's fields; None = none.
    """
    if (head or default_head(task)) == heads.FEATURES:
        recipe = features_recipe(width, num_rows)
    elif shots:
        recipe = fewshot_recipe(shots)
    elif task.suite == "gue":
        recipe = gue_recipe(task.name)
    else:
        recipe = Recipe(peak_lr=5e-5, num_epochs=5, batch_size=32, warmup_share=0.1)
    given = {name: value for name, value in changes.items() if value is not None}
    if "num_epochs" in given:
        given["max_steps"] = 0  # a recipe's would end them earlier
    return dataclasses.replace(recipe, **given)


def default_head(task: Task) -> str:
    """Returns the kind of head that a task's classifier has where none is asked for."""
    return heads.FEATURES if task.suite == "own" else heads.CLS


def features_recipe(width: int, num_rows: int) -> Recipe:
    """Returns the recipe of the features head, which is not published (SPEC section 10).

    The rate grows with the logarithm of few rows, falls with the root of many, whose steps are
    more (docs/tasks.md), and with the encoder's width. Of many rows there are fewer epochs: GUE's
    published recipes see 30,000 to 190,000 rows in all.
    """
    default, is_small = FeaturesDefaults, num_rows < FeaturesDefaults.small_rows
    few, many = default.few_rows, default.many_rows
    share = math.log(min(max(num_rows, few), many) / few) / math.log(many / few)
    rate = default.lr_of_few * (default.lr_of_many / default.lr_of_few) ** share
    rate *= math.sqrt(many / max(num_rows, many))
    return Recipe(
        peak_lr=float(f"{rate * default.width / width:.2g}"),
        num_epochs=max(1, min(default.num_epochs, default.most_rows // num_rows)),
        batch_size=default.small_batch_size if is_small else default.batch_size,
        warmup_share=default.warmup_share,
        dropout=default.dropout,
        head=heads.FEATURES,
        decay="cosine",
        patience=default.patience,
    )


def fewshot_recipe(shots: int) -> Recipe:
    """Returns the recipe of GeneMask and CM-GEMS for so many rows per class (SPEC section 6).

    Published for 10, 50, 100, 500 and 1,000; others take that of their side of 100.
    """
    if shots <= _FEW_SHOTS:
        return Recipe(peak_lr=1e-4, num_epochs=20, batch_size=5, warmup_share=0.1)
    return Recipe(peak_lr=5e-5, num_epochs=5, batch_size=15, warmup_share=0.1)


def gue_recipe(task_name: str) -> Recipe:
    """Returns the recipe of GUE for a set named as in `tasks.table.GUE` (SPEC section 6)."""
    group = task_name.partition("/")[0]
    if group not in _EPOCHS_BY_GROUP:
        raise InputError(
            f"task {task_name!r}: no published recipe; GUE's sets are named GROUP/SET with group "
            f"{', '.join(_EPOCHS_BY_GROUP)}"
        )
    return Recipe(
        peak_lr=3e-5,
        num_epochs=_EPOCHS_BY_SET.get(task_name, _EPOCHS_BY_GROUP[group]),
        batch_size=32,
        warmup_steps=_WARMUP_STEPS_BY_GROUP.get(group, 50),
        max_steps=_MAX_STEPS_BY_GROUP.get(group, 0),
    )


def make_optimizer(recipe: Recipe, num_steps: int) -> optax.GradientTransformation:
    """Returns AdamW with clipping, linear warm-up and the recipe's decay to 0 at `num_steps`."""
    settings = OptimizerConfig(
        peak_lr=recipe.peak_lr,
        warmup_steps=recipe.num_warmup_steps(num_steps),
        decay=recipe.decay,
        weight_decay=recipe.weight_decay,
        clip_norm=recipe.clip_norm,
        beta1=0.9,
        beta2=0.999,
        eps=1e-8,
    )
    return optimizer.make(Config(num_steps=num_steps, optimizer=settings))
