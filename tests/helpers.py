"""What tests of several rooms use: a small run and its records, and processes of their own."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from cmgems_jax.config import (
    Config,
    CurriculumConfig,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    TokensConfig,
)
from cmgems_jax.pretraining import checkpoints
from cmgems_jax.runtime import run_log

ROOT = Path(__file__).parents[1]
TIMES = {
    "bases_per_second", "seconds_by_part", "total_seconds", "input_wait_seconds", "device_hours",
    "starts",
}  # fmt: skip


def xla_flags(num_devices: int) -> str:
    """Returns flags for so many CPU devices, and for programs that compile in half the time.

    Most of the suite's time goes into compiling programs that run for milliseconds.
    """
    return (
        f"--xla_force_host_platform_device_count={num_devices} "
        "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    )


def small_config(fasta: Path, **changes: object) -> Config:
    """Returns 12 steps of a k=3 model with evaluations at 3, 6, 9, 12."""
    settings = {
        "num_steps": 12, "batch_size": 8, "log_every": 2, "eval_every": 3, "eval_windows": 20,
        "checkpoint_every": 6, "tokens": TokensConfig(k=3),
        "data": DataConfig(fasta=str(fasta), num_tokens=32),
        "curriculum": CurriculumConfig(threshold=0.9, threshold_kind="relative"),
        "model": ModelConfig(
            num_layers=1, hidden_size=16, num_heads=2, feedforward_size=32, num_positions=32,
            dropout=0.1, attention_dropout=0.0,
        ),
        "optimizer": OptimizerConfig(peak_lr=1e-2, warmup_steps=2),
    }  # fmt: skip
    return Config(**{**settings, **changes})


def records(workdir: Path, kind: str) -> list[dict]:
    """Returns the records of one kind."""
    return [record for record in run_log.read(workdir / "metrics.jsonl") if record["kind"] == kind]


def lines(workdir: Path) -> list[dict]:
    """Returns the metrics without what depends on the clock."""
    every = run_log.read(workdir / "metrics.jsonl")
    return [{n: v for n, v in line.items() if n not in TIMES} for line in every]


def without_last_checkpoint(workdir: Path, tmp_path: Path) -> Path:
    """Returns a copy of the run's folder whose newest checkpoint is that of step 6."""
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    shutil.rmtree(copy / checkpoints.FOLDER / "12")
    return copy


@contextlib.contextmanager
def started(
    command: Sequence[object],
    *,
    cwd: Path = ROOT,
    env: dict[str, str] | None = None,
    stderr: int = subprocess.PIPE,
) -> Iterator[subprocess.Popen]:
    """Yields a process; neither it nor what it has started outlives the block."""
    process = subprocess.Popen(
        [str(part) for part in command], cwd=cwd, env=env, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=stderr,
    )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def run_python(
    *arguments: object, cwd: Path = ROOT, timeout_s: float = 300, **environment: str
) -> subprocess.CompletedProcess:
    """Runs this Python on the repository's code, to the end."""
    env = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    with started([sys.executable, *arguments], cwd=cwd, env=env) as process:
        stdout, stderr = process.communicate(timeout=timeout_s)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)
