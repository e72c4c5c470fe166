"""One train step against HuggingFace's BertForMaskedLM in PyTorch, on full windows.

    python -m benchmarks.train_step --config=configs/logo6.py --config.batch_size=8
    python -m benchmarks.train_step --config=configs/dnabert6.py --config.batch_size=2 \\
        --torch_python=ENVIRONMENT/bin/python

Both train the same sizes on as many full windows (no padding), with the same budget of
masked tokens, AdamW and clipping: ours the whole step of a pretraining run, that is,
with tokenising, PMI masks and logits at the masked positions; PyTorch its
collator, sdpa attention and logits everywhere (on a GPU bfloat16 autocast and
torch.compile). They take turns; the one sleeps while the other runs.
"""

import sys

import numpy as np
from absl import flags

from benchmarks import peer, result, rows
from cmgems_jax.runtime import command

_CONFIG = command.define_config("logo6")
_STEPS = flags.DEFINE_integer("steps", 2, "Steps of one timed repeat.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 7, "Timed repeats of each.", lower_bound=1)
_PYTHON = flags.DEFINE_string("torch_python", sys.executable, "Python that has torch.")
_NUM_WINDOWS = 64  # that the PyTorch side draws from


def main() -> None:
    """Runs the benchmark."""
    config = _CONFIG.value
    config.accumulation_steps = 1
    rng = np.random.default_rng(0)
    windows_WM = rng.integers(0, 4, (_NUM_WINDOWS, config.window_bases), np.uint8)
    pad_to = config.data.num_tokens
    with peer.torch_peer(config, windows_WM, python=_PYTHON.value, pad_to=pad_to) as (said, ask):
        ours, count = rows.stepper(config), _STEPS.value
        calls = {
            "torch": lambda: ask(count)["seconds"] / count,
            "cmgems_jax": lambda: ours(count) / count,
        }
        result.in_turn(calls, 1)  # compiles
        samples = result.in_turn(calls, _REPEATS.value)
    name = f"train_step_{config.model.num_layers}x{config.model.hidden_size}"
    result.report(name, samples, unit="s/step", notes=peer.notes(config, said))


if __name__ == "__main__":
    command.run(main)
