"""Starts benchmarks/torch_peer.py beside a benchmark and asks it for steps, in turn with ours."""

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from cmgems_jax.config import Config
from cmgems_jax.errors import InputError
from cmgems_jax.model import bert

PROGRAM = Path(__file__).with_name("torch_peer.py")


@contextlib.contextmanager
def torch_peer(
    config: Config,
    windows_WM: np.ndarray,
    *,
    python: str,
    pad_to: int,
    num_workers: int = 0,
) -> Iterator[tuple[dict, Callable[[int], dict]]]:
    """Yields what the peer says of itself, and a function that runs so many of its steps.

    Args:
      config: of our run: model, k, budget, batch.
      windows_WM: uint8 (W, M), what it trains on, filled with vocabulary.PADDING.
      python: an interpreter with torch and transformers (requirements-bench.txt).
      pad_to: tokens of every batch; 0 = the longest of the batch.
      num_workers: processes of its DataLoader.

    Raises:
      InputError: the peer does not start.
    """
    with tempfile.TemporaryDirectory() as folder:
        windows, settings = Path(folder) / "windows.npy", Path(folder) / "settings.json"
        np.save(windows, windows_WM)
        content = {
            "model": vars(config.model),
            "k": config.tokens.k,
            "budget": config.masking.budget,
            "batch_size": config.batch_size,
            "windows": str(windows),
            "pad_to": pad_to,
            "num_workers": num_workers,
        }
        settings.write_text(json.dumps(content))
        with subprocess.Popen(
            [python, str(PROGRAM), str(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield _answer(process, python), lambda count: _ask(process, python, count)
            finally:
                process.stdin.close()
                process.terminate()


def notes(config: Config, peer: dict) -> dict:
    """Returns the sizes of both sides, and what the peer says of itself."""
    return {
        "layers": config.model.num_layers,
        "hidden": config.model.hidden_size,
        "rows": config.batch_size,
        "positions": config.data.num_tokens,
        "dtype": str(bert.compute_dtype(config.model)),
        "torch": peer["torch"],
        "torch_device": peer["device"],
    }


def _ask(process: subprocess.Popen, python: str, count: int) -> dict:
    """Returns the seconds, bases and tokens of `count` steps."""
    print(count, file=process.stdin, flush=True)
    return _answer(process, python)


def _answer(process: subprocess.Popen, python: str) -> dict:
    """Returns the next line of the peer."""
    line = process.stdout.readline()
    if not line:
        raise InputError(
            f"--torch_python={python}: the PyTorch side ended (see above); it needs "
            "`pip install -r requirements-bench.txt`, here or in an environment of its own"
        )
    return json.loads(line)
