"""Which part of a frozen encoder's features knows a few-shot task.

    python -m benchmarks.feature_parts --checkpoint=runs/logo --data_dir=data --task=prom_core

The probe of `launch.evaluate --mode=probe` on each part of the features alone, on all of them,
and on all but one, for the pretrained model and the same one untrained, under the draws and the
test rows of `launch.evaluate`. Prints the task's metric, mean [95 % interval over the draws].
"""

from pathlib import Path

import jax
import numpy as np
from absl import flags

from cmgems_jax import command
from cmgems_jax.data import tasks
from cmgems_jax.downstream import metrics, position_limit, pretrained, probe

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Work folder of a pretraining run.")
_DATA_DIR = flags.DEFINE_string("data_dir", ".", "Folder that holds fewshot/.")
_TASK = flags.DEFINE_string("task", "prom_core", "A few-shot task, or the folder of an own one.")
_SHOTS = flags.DEFINE_integer("shots", 100, "Training rows a class.", lower_bound=1)
_DRAWS = flags.DEFINE_integer("draws", 10, "Draws.", lower_bound=2)
_TEST_ROWS = flags.DEFINE_integer("test_rows", 1_000, "Predict at most so many; 0 = all.", 0)
_LONG = flags.DEFINE_enum(
    "long_sequences", "error", position_limit.LONG_SEQUENCES, "Beyond the model's positions."
)
flags.mark_flag_as_required("checkpoint")


def main() -> None:
    """Runs the comparison."""
    model = pretrained.load(Path(_CHECKPOINT.value))
    data = tasks.load(
        _TASK.value, Path(_DATA_DIR.value), shots=_SHOTS.value, k=model.config.tokens.k
    )
    tasks.keep_some_tests(data, _TEST_ROWS.value, 0)
    draws_DN = tasks.draw_shots(data.train.labels_N, _SHOTS.value, _DRAWS.value, 0)
    used_U, places = np.unique(draws_DN, return_inverse=True)
    train, test = data.train.take(used_U), data.test
    print(f"{data.task.name}, {_SHOTS.value} shots, {data.task.metric}; {jax.devices()[0]}")
    for encoder in (model, pretrained.untrained(model, 0)):
        train_UF, test_NF = (
            probe.features(encoder, rows.bases_NM, long_sequences=_LONG.value, source=rows.path)
            for rows in (train, test)
        )
        for name, columns in parts(encoder).items():
            said_DNC = probe.probe(
                train_UF[:, columns],
                train.labels_N,
                places.reshape(draws_DN.shape),
                test_NF[:, columns],
                data.task.num_classes,
            )
            scores = [metrics.score(test.labels_N, said_NC) for said_NC in said_DNC]
            mean, low, high = metrics.interval([score[data.task.metric] for score in scores])
            print(f"  {encoder.name}, {name}: {mean:.3f} [{low:.3f}, {high:.3f}]", flush=True)


def parts(encoder: pretrained.Pretrained) -> dict[str, np.ndarray]:
    """Returns columns of the features by the name of the part, and of what is without one."""
    network = encoder.config.model
    names = probe.part_names(network.num_layers)
    columns = np.split(np.arange(len(names) * network.hidden_size), len(names))
    alone = dict(zip(names, columns, strict=True))
    rest = {
        f"all but {name}": np.concatenate([alone[other] for other in names if other != name])
        for name in names
    }
    return {"all": np.concatenate(columns), **alone, **rest}


if __name__ == "__main__":
    command.run(main)
