"""Intrinsic dimension: how few numbers must be trained for a task (Aghajanyan et al. 2021).

The fewer a pretrained model needs, the more it knows already.
"""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cmgems_jax.downstream.evaluation import report, statistics
from cmgems_jax.downstream.evaluation.settings import IntrinsicSettings
from cmgems_jax.downstream.finetuning import loop as finetuning_loop
from cmgems_jax.downstream.finetuning.recipes import Recipe, fewshot_recipe
from cmgems_jax.downstream.tasks import labels, tasks
from cmgems_jax.downstream.tasks.tasks import TaskData
from cmgems_jax.errors import InputError
from cmgems_jax.model import heads
from cmgems_jax.pretraining import pretrained
from cmgems_jax.pretraining.pretrained import Pretrained
from cmgems_jax.runtime import outputs, pictures

SHARE = 0.9  # of what full fine-tuning reaches
FULL = 0  # dimensions of a row that trained all parameters
OUTPUTS = ("dimensions.csv", "dimensions.png")


def sweep(
    checkpoint: Path, task: str, data_dir: Path, output: Path, settings: IntrinsicSettings
) -> pd.DataFrame:
    """Fine-tunes in subspaces of growing dimension, and in full; writes a table and a picture.

    Args:
      task: a published task's name, or a folder.
      data_dir: holds fewshot/ and gue/.
      output: folder of dimensions.csv and dimensions.png.

    Returns:
      One row per dimension (`FULL` = all) and draw, with the scores.

    Raises:
      InputError: a path, a file or a dimension cannot work; nothing is written.
    """
    outputs.check_folder(output, OUTPUTS, OUTPUTS[:1])
    model = pretrained.load(checkpoint)
    settings = dataclasses.replace(settings, labels=labels.CLASSES)
    data = tasks.load(task, data_dir, settings, k=model.config.tokens.k, shots=settings.shots)
    tasks.keep_some_tests(data, settings.test_rows, settings.seed)
    for note in data.notes:
        print(f"{data.task.name}: {note}", flush=True)
    shapes = heads.param_shapes(model.config.model, model.config.tokens, data.task.num_classes)
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    for number in settings.dimensions:
        if number >= num_parameters:
            raise InputError(
                f"--dimensions={number}: expected fewer than the {num_parameters:,} parameters"
            )
    dimensions = (*sorted(settings.dimensions), FULL)
    rows = [_scores(model, data, settings, number, num_parameters) for number in dimensions]
    scores = pd.concat(rows, ignore_index=True)
    chance = float(np.bincount(data.test.labels_N).max() / len(data.test.labels_N))
    with outputs.replaced_folder(output) as folder:
        scores.to_csv(folder / OUTPUTS[0], index=False)
        plot(scores, chance, f"{model.name}, {data.task.name}", folder / OUTPUTS[1])
    for floor, what in ((0.0, "accuracy"), (chance, "accuracy above the majority class")):
        reached = d90(scores, floor)
        shown = f"{reached:,}" if reached else f"more than {max(settings.dimensions):,}"
        print(f"d90 ({SHARE:.0%} of full fine-tuning's {what}): {shown}")
    print(f"{output}: {', '.join(OUTPUTS)}", flush=True)
    return scores


def _scores(
    model: Pretrained, data: TaskData, settings: IntrinsicSettings, number: int, num_parameters: int
) -> pd.DataFrame:
    """Returns the scores of a training in so many dimensions, a row per draw; prints the mean."""
    draws_DN = tasks.draw_shots(
        data.train.labels_N, settings.shots, settings.num_draws, settings.seed
    )
    trained = finetuning_loop.train_draws(
        model,
        dataclasses.replace(data, dev=None),
        draws_DN,
        recipe_of(fewshot_recipe(settings.shots), number, num_parameters),
        seed=settings.seed,
        long_sequences="window",
    )
    predictions_DNC = finetuning_loop.probabilities(trained, data.test)
    scores = pd.DataFrame(
        {"dimensions": number} | row for row in statistics.of_draws(data, predictions_DNC)
    )
    unit = {"mode": "finetune", "task": data.task.name, "shots": data.shots}
    (row,) = statistics.summary(scores.assign(**unit), "dimensions").to_dict("records")
    name = f"{number:,}" if number else f"all {num_parameters:,}"
    print(f"{name:>15}  {data.task.metric} {report.cell(row)}", flush=True)
    return scores.drop(columns=["overlap", "metric", statistics.RESAMPLED])


def recipe_of(recipe: Recipe, num_dimensions: int, num_parameters: int) -> Recipe:
    """Returns the recipe of a subspace; that of full fine-tuning for `FULL` dimensions.

    A step of z moves the parameters less than one of all of them, by the root of the ratio of
    their numbers; the learning rate makes up for it.
    """
    if num_dimensions == FULL:
        return recipe
    rate = recipe.peak_lr * (num_parameters / num_dimensions) ** 0.5
    return dataclasses.replace(
        recipe, subspace=num_dimensions, peak_lr=rate, weight_decay=0.0, clip_norm=0.0
    )


def d90(table: pd.DataFrame, floor: float = 0.0) -> int | None:
    """Returns the fewest dimensions whose mean accuracy is `SHARE` of the full one's.

    `floor` is taken off both: 0 as in the literature, or what knows nothing gets. None where no
    dimension suffices.
    """
    means = table.groupby("dimensions").accuracy.mean()
    least = floor + SHARE * (means[FULL] - floor)
    return min((n for n in means.index if n and means[n] >= least), default=None)


def plot(table: pd.DataFrame, chance: float, title: str, path: Path) -> None:
    """Writes a PNG: accuracy by dimensions, full fine-tuning, 90 % of it, and chance."""
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    of_subspaces = table[table.dimensions != FULL]
    full = table[table.dimensions == FULL].accuracy.mean()
    axes.plot(of_subspaces.dimensions, of_subspaces.accuracy, "o", color=pictures.MAIN, alpha=0.4)
    means = of_subspaces.groupby("dimensions").accuracy.mean()
    axes.plot(means.index, means, color=pictures.MAIN, label="in a subspace")
    for value, style, name in (
        (full, "-", "all parameters"),
        (chance + SHARE * (full - chance), "--", f"{SHARE:.0%} of it above the majority class"),
        (chance, ":", "majority class"),
    ):
        axes.axhline(value, color=pictures.FAINT, linestyle=style, linewidth=1, label=name)
    axes.set(xscale="log", xlabel="trained dimensions", ylabel="accuracy")
    axes.set_title(title, loc="left", fontsize=10)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
