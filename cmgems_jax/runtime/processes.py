"""How several processes of one run find each other, before anything else of jax."""

import os
import sys
from typing import Any

import jax

from cmgems_jax.errors import InputError
from cmgems_jax.runtime import roll_call

_MIN_CONNECT_S = 60  # for jax itself, once all processes have answered the roll-call
_SHUTDOWN_S = 60  # that a process which ends waits for the others
# Variables of the launchers that start several processes in Kubernetes pods; without
# them a pod is a machine like any other, and jax's detection would ask its API.
_POD_LAUNCHERS = {"JOB_COMPLETION_INDEX", "TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES"}


def start(
    *, coordinator: str, num_processes: int | None, process_id: int | None, timeout_s: int
) -> None:
    """Joins this process to the others of the run; does nothing where it is alone.

    Call it before anything else of jax. The processes are those that the flags
    give, else those that jax finds in the environment of SLURM, a TPU pod, Open
    MPI or an indexed Kubernetes job. Processes other than 0 print nothing but
    errors from then on.

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
    roll_call.hold(coordinator, num_processes, process_id, timeout_s, source)
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
    if not coordinator or num_processes is None or process_id is None:
        given = {
            "--coordinator": coordinator or None,
            "--num_processes": num_processes,
            "--process_id": process_id,
        }
        missing = ", ".join(name for name, value in given.items() if value is None)
        raise InputError(
            f"{missing}: not given; --coordinator=HOST:PORT, --num_processes and --process_id "
            "belong together (none of them under SLURM or on a TPU pod)"
        )
    if num_processes < 1 or not 0 <= process_id < num_processes:
        raise InputError(
            f"--process_id={process_id}, --num_processes={num_processes}: expected "
            "0 <= process_id < num_processes"
        )
    roll_call.split_address(coordinator)


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
