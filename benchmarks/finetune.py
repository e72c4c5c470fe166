"""Draws fine-tuned side by side against the same draws one after another.

    python -m benchmarks.finetune
    python -m benchmarks.finetune --checkpoint=runs/logo --data_dir=data --task=prom_core \\
        --shots=100 --draws=10 --torch_python=ENVIRONMENT/bin/python

Both go through `finetune.train_draws` and the same recipe, and both find their programs
compiled; they take turns in one process. Prints medians, their ratio, the
compilation, and whether both give the same accuracy. Without a checkpoint an
untrained model of the config's sizes is trained on sequences made up here. With --torch_python
HuggingFace's BertForSequenceClassification trains one draw in its turn, with as many
steps of as many rows; times the draws, that is PyTorch one after another.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from absl import flags

from benchmarks import result
from benchmarks.peer import torch_peer
from cmgems_jax import command
from cmgems_jax.config import Config
from cmgems_jax.data import tasks
from cmgems_jax.data.tasks import Examples
from cmgems_jax.downstream import finetune, pretrained
from cmgems_jax.downstream.pretrained import Pretrained

_CONFIG = command.define_config("demo")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "", "Work folder of a pretraining run.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Folder that holds fewshot/; else made up.")
_TASK = flags.DEFINE_string("task", "prom_core", "With --data_dir.")
_SHOTS = flags.DEFINE_integer("shots", 10, "Training rows a class.", lower_bound=1)
_DRAWS = flags.DEFINE_integer("draws", 10, "Draws.", lower_bound=2)
_TEST_ROWS = flags.DEFINE_integer("test_rows", 500, "Rows predicted, not timed.", lower_bound=1)
_PYTHON = flags.DEFINE_string("torch_python", "", "Python that has torch; none: ours alone.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Timed repeats of each, taken in turn.")
_MADE_UP_BASES = 60


def main() -> None:
    """Runs the benchmark."""
    model = _model()
    train, test, num_classes = _task(model.config.tokens.k)
    draws_DN = tasks.draw_shots(train.labels_N, _SHOTS.value, _DRAWS.value, 0)
    recipe = finetune.fewshot_recipe(_SHOTS.value)

    def run(numbers_D: np.ndarray) -> tuple[float, np.ndarray]:
        """Returns the seconds of training the draws together, and their probabilities."""
        start = time.perf_counter()
        trained = finetune.train_draws(
            model, train, draws_DN[numbers_D], num_classes, recipe, seed=0, numbers_D=numbers_D
        )
        jax.block_until_ready(trained.params)
        seconds = time.perf_counter() - start
        return seconds, finetune.probabilities(trained, test)

    every = np.arange(_DRAWS.value)
    first_s = {"side by side": run(every)[0], "one after another": run(every[:1])[0]}
    seconds: dict[str, list[float]] = {name: [] for name in first_s}
    with _torch(model.config, train.take(draws_DN[0]), recipe) as torch_s:
        for _ in range(_REPEATS.value):
            together_s, together_DNC = run(every)
            alone = [run(every[[number]]) for number in every]
            seconds["side by side"].append(together_s)
            seconds["one after another"].append(sum(one_s for one_s, _ in alone))
            if torch_s:
                took = seconds.setdefault("PyTorch, one after another", [])
                took.append(len(every) * torch_s())
    notes = {
        "layers": model.config.model.num_layers,
        "hidden": model.config.model.hidden_size,
        "draws": _DRAWS.value,
        "shots": _SHOTS.value,
        "steps": recipe.num_steps(draws_DN.shape[1]),
        "sequences a step": recipe.batch_size,
        **{f"first call {kind}, with compilation, s": s for kind, s in first_s.items()},
    }
    name = f"finetune_{model.config.model.num_layers}x{model.config.model.hidden_size}"
    result.report(name, seconds, unit="s", notes=notes)
    alone_DNC = np.concatenate([said for _, said in alone])
    together, apart = (
        float((said_DNC.argmax(axis=2) == test.labels_N).mean())
        for said_DNC in (together_DNC, alone_DNC)
    )
    print(
        f"accuracy on {len(test.labels_N):,} rows: {together:.4f} and {apart:.4f}; largest "
        f"difference of a probability {np.abs(together_DNC - alone_DNC).max():.1e}"
    )


@contextlib.contextmanager
def _torch(
    config: Config, rows: Examples, recipe: finetune.Recipe
) -> Iterator[Callable[[], float] | None]:
    """Yields a function that trains one draw in PyTorch and returns the seconds, or None."""
    if not _PYTHON.value:
        yield None
        return
    sized = Config(**vars(config) | {"batch_size": recipe.batch_size})
    num_steps = recipe.num_steps(len(rows.labels_N))
    with torch_peer(
        sized, rows.bases_NM, python=_PYTHON.value, pad_to=0, labels_W=rows.labels_N
    ) as (_, ask):
        ask(2)
        yield lambda: ask(num_steps)["seconds"]


def _model() -> Pretrained:
    """Returns the checkpoint's encoder, or an untrained one of the config."""
    if _CHECKPOINT.value:
        return pretrained.load(Path(_CHECKPOINT.value))
    return pretrained.untrained(Pretrained(_CONFIG.value, {}, ""), seed=0)


def _task(k: int) -> tuple[Examples, Examples, int]:
    """Returns the rows to draw from, those to predict, and the number of classes."""
    if _DATA_DIR.value:
        data = tasks.load(_TASK.value, Path(_DATA_DIR.value), k=k, shots=_SHOTS.value)
        test = data.test.take(np.arange(min(_TEST_ROWS.value, len(data.test.labels_N))))
        return data.train, test, data.task.num_classes
    return _made_up(10 * _SHOTS.value, 0), _made_up(-(-_TEST_ROWS.value // 2), 1), 2


def _made_up(rows_a_class: int, seed: int) -> Examples:
    """Returns sequences whose second class has a few more G and C."""
    rng = np.random.default_rng(seed)
    labels_N = np.repeat(np.arange(2, dtype=np.int32), rows_a_class)
    is_gc = rng.random((len(labels_N), _MADE_UP_BASES)) < 0.5 + 0.05 * labels_N[:, None]
    bases_NM = (2 * is_gc + rng.integers(0, 2, is_gc.shape)).astype(np.uint8)
    rows_N = np.arange(len(labels_N), dtype=np.int32) + 2
    return Examples(bases_NM, labels_N, rows_N, "made up")


if __name__ == "__main__":
    command.run(main)
