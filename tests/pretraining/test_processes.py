"""Several processes on loopback, one CPU device each: the same run as one process with two."""

import concurrent.futures
import contextlib
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from cmgems_jax.errors import InputError
from cmgems_jax.pretraining import checkpoints
from cmgems_jax.pretraining import loop as pretraining_loop
from cmgems_jax.runtime import parallel, processes, run_log
from tests import helpers
from tests.helpers import ROOT, lines, without_last_checkpoint

TIMEOUT_S = 240  # of a whole run; it takes about 10
START = f'#!/usr/bin/env bash\nexec "{sys.executable}"'


def free_port() -> int:
    """Returns a port at which nobody listens now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextlib.contextmanager
def started(flags: Sequence[Sequence[str]], num_devices: int = 1):
    """Yields one launch.pretrain a list of flags; none outlives the block."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("SLURM_")},
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": helpers.xla_flags(num_devices),
        "MPLBACKEND": "agg",
    }
    command = [sys.executable, "-m", "launch.pretrain"]
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(helpers.started([*command, *own], env=environment)) for own in flags
        ]


def outcomes(flags: Sequence[Sequence[str]], num_devices: int = 1) -> list[tuple[int, str, str]]:
    """Runs to the end and returns every process's exit code, stdout and stderr."""
    with started(flags, num_devices) as processes:
        deadline = time.monotonic() + TIMEOUT_S
        texts = [p.communicate(timeout=max(1, deadline - time.monotonic())) for p in processes]
        return [(p.returncode, *text) for p, text in zip(processes, texts, strict=True)]


def two_processes(run_flags: Sequence[str], timeout_s: int = 60) -> list[list[str]]:
    """Returns the flags of process 0 and of process 1."""
    shared = [
        *run_flags, f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2",
        f"--start_timeout_s={timeout_s}",
    ]  # fmt: skip
    return [[*shared, f"--process_id={number}"] for number in range(2)]


@pytest.fixture(scope="module")
def config_file(genome, tmp_path_factory) -> Path:
    """The run of `small_config`."""
    folder = tmp_path_factory.mktemp("input")
    (folder / "config.py").write_text(
        "from tests.helpers import small_config\n\n\n"
        f"def get_config():\n    return small_config({str(genome)!r})\n"
    )
    return folder / "config.py"


def run_flags(config_file: Path, workdir: Path) -> list[str]:
    """Returns the flags of a run on however many processes."""
    return [f"--config={config_file}", f"--workdir={workdir}"]


@pytest.fixture(scope="module")
def two(config_file, tmp_path_factory) -> tuple[Path, list[tuple[int, str, str]]]:
    """The run with two processes: its folder, and what the processes said."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    return workdir, outcomes(two_processes(run_flags(config_file, workdir)))


@pytest.fixture(scope="module")
def one(config_file, tmp_path_factory) -> Path:
    """The folder of the run with one process and two devices."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    ((code, _, stderr),) = outcomes([run_flags(config_file, workdir)], num_devices=2)
    assert code == 0, stderr
    return workdir


def saved_state(workdir: Path, step: int) -> dict:
    """Returns the arrays of a checkpoint."""
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(workdir.absolute() / checkpoints.FOLDER / str(step) / "state")


def assert_same_run(workdir: Path, other: Path) -> None:
    """Same state, bit for bit, and same metrics, every line once."""
    jax.tree.map(np.testing.assert_array_equal, saved_state(workdir, 12), saved_state(other, 12))
    assert lines(workdir) == lines(other)


def test_two_processes_make_the_run_of_one_with_two_devices(two, one):
    workdir, said = two
    for code, _, stderr in said:
        assert code == 0, stderr
    assert_same_run(workdir, one)
    evaluated = [line["step"] for line in lines(workdir) if line["kind"] == "eval"]
    assert evaluated == [0, 3, 6, 9, 12]


def test_process_0_alone_prints(two):
    _, ((_, first, _), (_, second, _)) = two
    assert "eval      12/12" in first
    # Gloo, which joins CPUs, says in C++ how many it has joined.
    assert [line for line in second.splitlines() if not line.startswith("[Gloo]")] == []


@pytest.mark.parametrize("num_processes", [2, 1])
def test_a_run_of_two_processes_is_resumed_by_two_or_by_one(
    two, config_file, tmp_path, num_processes
):
    """From step 6, which is the curriculum's switch."""
    workdir, _ = two
    copy = without_last_checkpoint(workdir, tmp_path)
    flags = [*run_flags(config_file, copy), "--resume=must"]
    every = two_processes(flags) if num_processes == 2 else [flags]
    said = outcomes(every, num_devices=2 // num_processes)
    for code, _, stderr in said:
        assert code == 0, stderr
    assert "resumed from step 6" in said[0][1]
    assert_same_run(copy, workdir)


def test_a_run_is_resumed_on_another_number_of_devices_with_the_same_masks(
    one, config_file, tmp_path
):
    """Two devices to step 6, four from there: what depends on masks alone is equal."""
    copy = without_last_checkpoint(one, tmp_path)
    flags = [*run_flags(config_file, copy), "--resume=must"]
    ((code, _, stderr),) = outcomes([flags], num_devices=4)
    assert code == 0, stderr
    for line, other in zip(lines(copy), lines(one), strict=True):
        for name in ("kind", "step", "stage", "masked_fraction", "dropped_positions", "from", "to"):
            assert line.get(name) == other.get(name)
    before, after = saved_state(one, 12)["params"], saved_state(copy, 12)["params"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), before, after)


def test_a_signal_to_one_process_stops_both_after_the_same_step(config_file, tmp_path):
    workdir = tmp_path / "run"
    flags = [*run_flags(config_file, workdir), "--config.num_steps=100000"]
    with started(two_processes(flags)) as processes:
        deadline = time.monotonic() + TIMEOUT_S
        while not run_log.read(workdir / "metrics.jsonl"):
            assert time.monotonic() < deadline and processes[1].poll() is None
            time.sleep(0.1)
        processes[1].send_signal(signal.SIGTERM)
        (stdout, stderr), _ = [p.communicate(timeout=TIMEOUT_S) for p in processes]
        assert [p.returncode for p in processes] == [pretraining_loop.EXIT_STOPPED] * 2, stderr
    step = int(re.search(r"saved step (\d+) after SIGTERM", stdout).group(1))
    assert step % parallel.AGREE_EVERY == 0
    assert (workdir / checkpoints.FOLDER / str(step)).is_dir()


SRUN = """# Stands for srun on one host of two GPUs: two tasks, which get SIGTERM once they train.
import os, pathlib, signal, subprocess, sys, time
command = [part for part in sys.argv[1:] if part != "--kill-on-bad-exit=1"]
tasks = []
for number in "01":
    named = dict(SLURM_STEP_NODELIST="127.0.0.1", SLURM_NTASKS="2", SLURM_PROCID=number,
                 SLURM_LOCALID=number, JAX_COORDINATOR_PORT="{port}")
    tasks.append(subprocess.Popen(command, env=os.environ | named))
end = time.monotonic() + {timeout_s}
metrics = pathlib.Path({workdir!r}, "metrics.jsonl")
while time.monotonic() < end and None in [t.poll() for t in tasks] and not (
    metrics.exists() and metrics.stat().st_size
):
    time.sleep(0.1)
for task in tasks:
    task.send_signal(signal.SIGTERM)
sys.exit(max(task.wait(60) for task in tasks))
"""


def test_the_slurm_script_starts_all_tasks_and_queues_a_stopped_run_again(config_file, tmp_path):
    """SLURM's variables, as srun sets them, are enough for the processes to find each other."""
    workdir = tmp_path / "run"
    scripts = {
        "srun.py": SRUN.format(port=free_port(), timeout_s=TIMEOUT_S, workdir=str(workdir)),
        "bin/srun": f'{START} "{tmp_path}/srun.py" "$@"\n',
        "bin/scontrol": '#!/usr/bin/env bash\necho "$@" >scontrol.txt\n',
        ".venv/bin/python": f'{START} "$@"\n',
    }
    for name, text in scripts.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    environment = os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
        "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "1", "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": helpers.xla_flags(1),
    }  # fmt: skip
    flags = [*run_flags(config_file, workdir), "--config.num_steps=100000"]
    script = ["bash", ROOT / "launch" / "slurm.sh", *flags]
    with helpers.started(script, env=environment) as process:
        stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == pretraining_loop.EXIT_STOPPED, stderr
    assert re.search(r"saved step \d+ after SIGTERM", stdout)
    assert (tmp_path / "scontrol.txt").read_text() == "requeue 1\n"


def test_a_host_that_never_comes_is_told_with_the_numbers_seen_and_expected(config_file, tmp_path):
    flags = two_processes(run_flags(config_file, tmp_path / "run"), timeout_s=3)
    ((code, stdout, stderr),) = outcomes(flags[:1])
    assert (code, stdout) == (2, "")
    assert stderr.startswith("error: 2 processes expected, 1 came within 3 s; missing: process 1.")
    assert stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_an_allocation_without_srun_says_where_its_number_came_from(monkeypatch, capfd):
    """SLURM's variables of eight tasks, and one process."""
    named = {
        "SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": "8",
        "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "JAX_COORDINATOR_PORT": str(free_port()),
    }  # fmt: skip
    for name, value in named.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes, "_QUIET_S", 0.2)
    with pytest.raises(InputError) as error:
        processes.start(coordinator="", num_processes=None, process_id=None, timeout_s=2)
    remedy = "(SLURM_NTASKS=8); to run this process alone: --num_processes=1"
    assert str(error.value).startswith("8 processes expected, 1 came within 2 s; missing:")
    assert str(error.value).endswith(remedy)
    waited = capfd.readouterr().err
    assert waited.startswith("process 0 waits at 127.0.0.1:") and remedy in waited


def test_a_process_that_does_not_find_process_0_says_where_it_looked(config_file, tmp_path):
    flags = two_processes(run_flags(config_file, tmp_path / "run"), timeout_s=3)
    ((code, _, stderr),) = outcomes(flags[1:])
    assert code == 2
    assert re.match(r"error: process 1 of 2 waited 3 s for process 0 at 127\.0\.0\.1:\d+ ", stderr)
    assert stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("", 2, 0), r"--coordinator: not given"),
        (("host:1", None, 0), r"--num_processes: not given"),
        (("host:1", 2, None), r"--process_id: not given"),
        (("host:1", 2, 2), r"--process_id=2, --num_processes=2: expected 0 <= process_id"),
        (("host:1", 0, 0), r"--num_processes=0"),
        (("host", 2, 0), r"--coordinator=host: expected HOST:PORT"),
        (("host:99999", 2, 0), r"--coordinator=host:99999: expected HOST:PORT"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(flags, message):
    coordinator, num_processes, process_id = flags
    with pytest.raises(InputError, match=message):
        processes.start(
            coordinator=coordinator, num_processes=num_processes, process_id=process_id,
            timeout_s=1,
        )  # fmt: skip


def test_all_of_three_learn_that_two_took_one_number():
    """Threads stand for processes; a stranger that knocks at the port is ignored."""
    coordinator = f"127.0.0.1:{free_port()}"
    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        calls = [
            threads.submit(processes.call_roll, coordinator, 3, number, 20) for number in (0, 1, 1)
        ]
        errors = [call.exception(timeout=60) for call in calls]
    assert [str(error) for error in errors] == [
        "two processes came with --process_id=1: give each its own"
    ] * 3


def test_a_stranger_at_the_port_is_not_counted():
    port = free_port()
    stop = threading.Event()

    def knock() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as s:
                s.sendall(b"GET / HTTP/1.1\r\n")
            time.sleep(0.05)

    stranger = threading.Thread(target=knock)
    stranger.start()
    try:
        with pytest.raises(InputError, match="2 processes expected, 1 came within 1 s"):
            processes.call_roll(f"127.0.0.1:{port}", 2, 0, 1)
    finally:
        stop.set()
        stranger.join()
