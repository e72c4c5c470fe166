"""A roll-call over TCP before `jax.distributed` starts.

jax ends the whole process with a stack trace of C++ when another one does not
come in time, without saying how many did. So the processes meet here first, at
the address where jax's coordinator will listen afterwards: process 0 counts, and
all get its answer.
"""

import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator

from cmgems_jax.errors import InputError

_GREETING = "cmgems_jax roll-call"
_QUIET_S = 5.0  # that a process waits before it says so
_WAIT_S = 0.2  # between two tries of a process to reach process 0
_LINE_S = 2.0  # that a connection may take to say who it is
_GRACE_S = 10.0  # that a process waits beyond the time-out for process 0's answer
_MAX_LINE = 65_536  # bytes


def hold(
    coordinator: str, num_processes: int, process_id: int, timeout_s: float, source: str = ""
) -> None:
    """Returns once all processes have come.

    Args:
      coordinator: HOST:PORT of process 0, reachable from all.
      num_processes: how many are expected.
      process_id: of this one; 0 counts.
      timeout_s: seconds to wait.
      source: what in the environment gave `num_processes`; "": a flag.

    Raises:
      InputError: not all came in time, or they disagree on who they are.
    """
    host, port = split_address(coordinator)
    deadline = time.monotonic() + timeout_s
    waiting = (
        f"process {process_id} waits at {coordinator} for {num_processes} processes in all, at "
        f"most {timeout_s:g} s{_alone(source)}"
    )
    note = threading.Timer(_QUIET_S, print, [waiting], {"file": sys.stderr, "flush": True})
    note.daemon = True
    note.start()
    try:
        if process_id == 0:
            _count(port, num_processes, deadline, timeout_s)
        else:
            _answer(host, port, num_processes, process_id, deadline, timeout_s)
    except InputError as error:
        raise InputError(f"{error}{_alone(source)}") from None
    finally:
        note.cancel()


def _alone(source: str) -> str:
    """Returns what to do where nobody else was meant to come, and a launcher's number stands."""
    if not source:
        return ""
    return f". The environment says so ({source}); to run this process alone: --num_processes=1"


def split_address(coordinator: str) -> tuple[str, int]:
    """Returns host and port of HOST:PORT.

    Raises:
      InputError: it is not of that form.
    """
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise InputError(
            f"--coordinator={coordinator}: expected HOST:PORT of process 0, for example "
            "node001:12345"
        )
    return host.strip("[]"), int(port)


def _count(port: int, num_processes: int, deadline: float, timeout_s: float) -> None:
    """Process 0: waits for the others, and tells them the outcome."""
    came: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_listen(port))
        trouble = ""
        while len(came) < num_processes - 1 and not trouble:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                trouble = _missing(num_processes, {0, *came}, timeout_s)
                break
            server.settimeout(left_s)
            try:
                connection = stack.enter_context(server.accept()[0])
            except TimeoutError:
                continue
            caller = _read(connection, min(_LINE_S, left_s))
            if caller.get("greeting") != _GREETING:
                continue  # somebody else: a port scanner, a health check
            number = caller["process_id"]
            if caller["num_processes"] != num_processes:
                trouble = (
                    f"process {number} was started with --num_processes={caller['num_processes']}, "
                    f"process 0 with {num_processes}: give all the same"
                )
            elif number in came:
                trouble = f"two processes came with --process_id={number}: give each its own"
            came.setdefault(number, connection)
            if came[number] is not connection:
                _send(connection, {"trouble": trouble})
        for connection in came.values():
            _send(connection, {"trouble": trouble})
        for connection in came.values():  # the others hang up first, which frees the port at once
            _read(connection, _LINE_S)
    if trouble:
        raise InputError(trouble)


def _listen(port: int) -> socket.socket:
    """Returns a socket at the port of every interface, of IPv6 too where there is one."""
    try:
        if socket.has_dualstack_ipv6():
            with contextlib.suppress(OSError):  # compiled in, but switched off
                return socket.create_server(
                    ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
                )
        return socket.create_server(("", port), backlog=1024)
    except OSError as error:
        raise InputError(
            f"--coordinator: process 0 cannot listen at port {port} ({error.strerror}); "
            "give another port to all processes"
        ) from None


def _answer(
    host: str, port: int, num_processes: int, process_id: int, deadline: float, timeout_s: float
) -> None:
    """Another process: says who it is until process 0 has told the outcome."""
    who = {"greeting": _GREETING, "process_id": process_id, "num_processes": num_processes}
    reason = "no answer"
    for left_s in _tries(deadline):
        try:
            with socket.create_connection((host, port), timeout=max(1.0, left_s)) as connection:
                _send(connection, who)
                reply = _read(connection, left_s + _GRACE_S)
        except OSError as error:  # not up yet, or its name is not known yet
            reason = error.strerror or str(error)
            continue
        if reply.get("trouble"):
            raise InputError(reply["trouble"])
        if "trouble" in reply:
            return
    raise InputError(
        f"process {process_id} of {num_processes} waited {timeout_s:g} s for process 0 at "
        f"{host}:{port} ({reason}). Is it running, its port open, and --coordinator its address?"
    )


def _tries(deadline: float) -> Iterator[float]:
    """Yields the seconds that are left, with pauses, until there are none."""
    while (left_s := deadline - time.monotonic()) > 0:
        yield left_s
        time.sleep(_WAIT_S)


def _missing(num_processes: int, came: set[int], timeout_s: float) -> str:
    """Says how many came and who did not."""
    missing = [number for number in range(num_processes) if number not in came]
    named = ", ".join(map(str, missing[:16])) + (", ..." if len(missing) > 16 else "")
    return (
        f"{num_processes} processes expected, {len(came)} came within {timeout_s:g} s; missing: "
        f"process {named}. Look at the logs of those hosts, or wait longer with --start_timeout_s"
    )


def _send(connection: socket.socket, message: dict) -> None:
    """Sends one line of JSON; the other side may be gone."""
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps(message).encode() + b"\n")


def _read(connection: socket.socket, timeout_s: float) -> dict:
    """Returns one line of JSON, {} where none comes."""
    deadline, line = time.monotonic() + timeout_s, b""
    try:
        while not line.endswith(b"\n") and len(line) < _MAX_LINE:
            connection.settimeout(max(0.01, deadline - time.monotonic()))
            part = connection.recv(4096)
            if not part:
                return {}
            line += part
        message = json.loads(line)
    except (OSError, ValueError):
        return {}
    return message if isinstance(message, dict) else {}
