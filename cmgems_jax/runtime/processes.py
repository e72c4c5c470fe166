"""How several processes of one run find each other, before anything else of jax.

jax ends the whole process with a stack trace of C++ when another one does not come in time,
without saying which. So the processes call the roll first, over TCP, at the address where jax's
coordinator will listen afterwards: process 0 counts, and all get its answer.
"""

import asyncio
import contextlib
import json
import os
import socket
import sys
import threading
import time
from typing import Any

import jax

from cmgems_jax.errors import InputError

_GREETING = "cmgems_jax roll-call"
_QUIET_S = 5.0  # that a process waits before it says so
_RETRY_S = 0.2  # between two tries of a process to reach process 0
_LINE_S = 2.0  # that a connection may take to say who it is, and to hang up
_GRACE_S = 10.0  # that a process waits beyond the time-out for process 0's answer
_MIN_CONNECT_S = 60  # for jax itself, once all processes have answered the roll-call
_SHUTDOWN_S = 60  # that a process which ends waits for the others
# Variables of the launchers that start several processes in Kubernetes pods; without
# them a pod is a machine like any other, and jax's detection would ask its API.
_POD_LAUNCHERS = {"JOB_COMPLETION_INDEX", "TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES"}


def start(
    *, coordinator: str, num_processes: int | None, process_id: int | None, timeout_s: int
) -> None:
    """Joins this process to the others of the run; does nothing where it is alone.

    The processes are those that the flags give, else those that jax finds in the environment of
    SLURM, a TPU pod, Open MPI or an indexed Kubernetes job. Processes other than 0 print nothing
    but errors from then on.

    Args:
      coordinator: HOST:PORT of process 0, or "".
      num_processes: how many; 1 alone means one process, whatever the environment says.
      process_id: 0 to num_processes - 1.
      timeout_s: seconds that the processes wait for each other.

    Raises:
      InputError: the flags contradict each other, or a process did not come.
    """
    if num_processes == 1 and not coordinator and not process_id:
        return
    local_devices, source = None, ""
    if coordinator or num_processes is not None or process_id is not None:
        _check_flags(coordinator, num_processes, process_id)
    else:
        coordinator, num_processes, process_id, local_devices = _from_environment(timeout_s)
        source = _source(num_processes)
    if num_processes is None or num_processes == 1:
        return
    call_roll(coordinator, num_processes, process_id, timeout_s, source)
    jax.distributed.initialize(
        coordinator,
        num_processes,
        process_id,
        local_devices,
        cluster_detection_method="deactivate",
        initialization_timeout=max(timeout_s, _MIN_CONNECT_S),
        shutdown_timeout_seconds=_SHUTDOWN_S,
    )
    if process_id:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, kept until the process ends


def _check_flags(coordinator: str, num_processes: int | None, process_id: int | None) -> None:
    """Raises `InputError` unless the three flags are given together and fit."""
    given = {
        "--coordinator": coordinator or None,
        "--num_processes": num_processes,
        "--process_id": process_id,
    }
    if missing := ", ".join(name for name, value in given.items() if value is None):
        raise InputError(
            f"{missing}: not given; --coordinator=HOST:PORT, --num_processes and --process_id "
            "belong together (none of them under SLURM or on a TPU pod)"
        )
    if num_processes < 1 or not 0 <= process_id < num_processes:
        raise InputError(
            f"--process_id={process_id}, --num_processes={num_processes}: expected "
            "0 <= process_id < num_processes"
        )
    _split_address(coordinator)


def _from_environment(timeout_s: int) -> tuple[str, int | None, int | None, Any]:
    """Returns coordinator, number of processes, this one's, its devices, as jax finds them."""
    from jax._src import clusters  # jax.distributed.initialize's own look-up has no public name

    if "KUBERNETES_SERVICE_HOST" in os.environ and not _POD_LAUNCHERS & os.environ.keys():
        return "", None, None, None
    return clusters.ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, None, None, timeout_s
    )


def _source(num_processes: int | None) -> str:
    """Returns what in the environment gave the number of processes."""
    for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"):
        if os.environ.get(name) == str(num_processes):
            return f"{name}={num_processes}"
    return "a launcher's variables"


def call_roll(
    coordinator: str, num_processes: int, process_id: int, timeout_s: float, source: str = ""
) -> None:
    """Returns once all processes have come.

    Arguments as for `start`; `source` is what in the environment gave `num_processes`, "" a flag.

    Raises:
      InputError: not all came in time, or they disagree on who they are.
    """
    host, port = _split_address(coordinator)
    # For those who meant to run one process where a launcher's number stands.
    alone = f". The environment says so ({source}); to run this process alone: --num_processes=1"
    alone = alone if source else ""
    waiting = (
        f"process {process_id} waits at {coordinator} for {num_processes} processes in all, at "
        f"most {timeout_s:g} s{alone}"
    )
    note = threading.Timer(_QUIET_S, print, [waiting], {"file": sys.stderr, "flush": True})
    note.daemon = True
    note.start()
    try:
        if process_id == 0:
            trouble = asyncio.run(_count(port, num_processes, timeout_s))
        else:
            trouble = _answer(host, port, num_processes, process_id, timeout_s)
    finally:
        note.cancel()
    if trouble:
        raise InputError(trouble + alone)


def _split_address(coordinator: str) -> tuple[str, int]:
    """Returns host and port of HOST:PORT; another form raises `InputError`."""
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise InputError(
            f"--coordinator={coordinator}: expected HOST:PORT of process 0, for example "
            "node001:12345"
        )
    return host.strip("[]"), int(port)


async def _count(port: int, num_processes: int, timeout_s: float) -> str:
    """Process 0: waits for the others and tells them the trouble, "" for none; returns it."""
    present, callers = {0}, set()
    trouble: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError, ValueError, TypeError):
            line = await asyncio.wait_for(reader.readline(), _LINE_S)
            greeting, number, expected = json.loads(line)
            if greeting != _GREETING:
                return  # somebody else, as are those whose line is no such list
            callers.add(asyncio.current_task())
            outcome = ""
            if expected != num_processes:
                outcome = (
                    f"process {number} was started with --num_processes={expected}, "
                    f"process 0 with {num_processes}: give all the same"
                )
            elif number in present:
                outcome = f"two processes came with --process_id={number}: give each its own"
            present.add(number)
            if not trouble.done() and (outcome or len(present) == num_processes):
                trouble.set_result(outcome)
            writer.write(json.dumps(await trouble).encode() + b"\n")
            # The others hang up first, which frees the port at once.
            await asyncio.wait_for(reader.read(), _LINE_S)

    try:
        server = await asyncio.start_server(hear, None, port, backlog=1024)
    except OSError as error:
        return (
            f"--coordinator: process 0 cannot listen at port {port} ({os.strerror(error.errno)}); "
            "give another port to all processes"
        )
    async with server:
        await asyncio.wait([trouble], timeout=timeout_s)
        if not trouble.done():
            trouble.set_result(_missing(num_processes, present, timeout_s))
        await asyncio.wait(callers or [trouble], timeout=2 * _LINE_S)
    return trouble.result()


def _answer(host: str, port: int, num_processes: int, process_id: int, timeout_s: float) -> str:
    """Another process: says who it is until process 0 has told the trouble; returns it."""
    line = json.dumps([_GREETING, process_id, num_processes]).encode() + b"\n"
    deadline, reason = time.monotonic() + timeout_s, "no answer"
    while (left_s := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, port), timeout=max(1.0, left_s)) as connection:
                connection.sendall(line)
                connection.settimeout(left_s + _GRACE_S)
                return json.loads(connection.makefile().readline())
        except OSError as error:  # not up yet, or its name is not known yet
            reason = error.strerror or str(error)
        except ValueError:  # hung up without a word, or somebody else
            reason = "no answer"
        time.sleep(_RETRY_S)
    return (
        f"process {process_id} of {num_processes} waited {timeout_s:g} s for process 0 at "
        f"{host}:{port} ({reason}). Is it running, its port open, and --coordinator its address?"
    )


def _missing(num_processes: int, present: set[int], timeout_s: float) -> str:
    """Says how many came and who did not."""
    missing = [number for number in range(num_processes) if number not in present]
    named = ", ".join(map(str, missing[:16])) + (", ..." if len(missing) > 16 else "")
    return (
        f"{num_processes} processes expected, {len(present)} came within {timeout_s:g} s; missing: "
        f"process {named}. Look at the logs of those hosts, or wait longer with --start_timeout_s"
    )
