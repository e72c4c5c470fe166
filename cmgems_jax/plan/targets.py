"""The machines that a program can be compiled for without having one: published numbers.

jax hands a topology to the compilers of TPUs (libtpu) and GPUs (the CUDA plugin); for a
GPU they ask for a description of the card besides. Peaks are dense bfloat16.
"""

import dataclasses
import importlib.util
import os

import jax

from cmgems_jax.errors import InputError, did_you_mean

HERE = "here"
# Else libtpu asks for a cloud machine's metadata, misses it aloud, and locks out other processes.
_WITHOUT_A_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
_INSTALL = (
    "python -m venv .venv-plan && .venv-plan/bin/pip install -r requirements-plan.txt, "
    "then .venv-plan/bin/python -m launch.plan ..."
)


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device, as jax counts them."""

    memory_bytes: float
    flops: float  # a second
    bytes_per_s: float  # of its memory
    clock_hz: float = 0  # that its compiler's cycles count; 0 = it has none
    description: str = ""  # of a GPU, in XLA's GpuTargetConfig text form


@dataclasses.dataclass(frozen=True)
class Target:
    """The devices of a run."""

    name: str
    chip: Chip | None  # None = here, and not known
    devices: tuple[jax.Device, ...]


def _gpu(
    name: str,
    capability: str,
    *,
    cores: int,
    units: int,
    ghz: float,
    memory_bytes: float,
    bytes_per_s: float,
    flops: float,
    cache_bytes: int,
    shared_bytes: int,
    threads: int = 2048,
) -> Chip:
    """Returns a card; 1 KB of a core's shared memory is the system's."""
    major, minor = capability.split(".")
    description = f"""
    gpu_device_info {{
      threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: {threads}
      shared_memory_per_block: 49152 shared_memory_per_core: {shared_bytes}
      shared_memory_per_block_optin: {shared_bytes - 1024}
      core_count: {cores} fpus_per_core: {units} clock_rate_ghz: {ghz}
      block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
      memory_bandwidth: {bytes_per_s:.0f} l2_cache_size: {cache_bytes}
      device_memory_size: {memory_bytes:.0f}
      cuda_compute_capability {{ major: {major} minor: {minor} }}
      registers_per_core_limit: 65536 registers_per_block_limit: 65536
    }}
    platform_name: "CUDA"
    dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
    device_description_str: "{name}"
    """
    return Chip(memory_bytes, flops, bytes_per_s, 0, description)


_HOPPER = {
    "cores": 132,
    "units": 128,
    "ghz": 1.98,
    "flops": 989e12,
    "cache_bytes": 50 * 2**20,
    "shared_bytes": 228 * 1024,
}
# Memory and rates of a chip. The cores of a v4 chip are devices of their own here.
CHIPS = {
    "v4": Chip(16e9, 137.5e12, 614e9, 1.05e9),
    "v5e": Chip(16e9, 197e12, 819e9, 1.5e9),
    "v5p": Chip(95e9, 459e12, 2_765e9, 1.75e9),
    "v6e": Chip(32e9, 918e12, 1_640e9, 1.75e9),
    "h100": _gpu("NVIDIA H100 80GB HBM3", "9.0", memory_bytes=80e9, bytes_per_s=3_350e9, **_HOPPER),
    "h200": _gpu("NVIDIA H200", "9.0", memory_bytes=141e9, bytes_per_s=4_800e9, **_HOPPER),
    "a100": _gpu(
        "NVIDIA A100-SXM4-80GB",
        "8.0",
        cores=108,
        units=64,
        ghz=1.41,
        memory_bytes=80e9,
        bytes_per_s=2_039e9,
        flops=312e12,
        cache_bytes=40 * 2**20,
        shared_bytes=164 * 1024,
    ),
    "l4": _gpu(
        "NVIDIA L4",
        "8.9",
        cores=58,
        units=128,
        ghz=2.04,
        memory_bytes=24e9,
        bytes_per_s=300e9,
        flops=121e12,
        cache_bytes=48 * 2**20,
        shared_bytes=100 * 1024,
        threads=1536,
    ),
}
# What is suggested for a name that is not known; other topologies of a TPU work as well.
EXAMPLES = (
    *("v4:2x2x1", "v5e:2x2", "v5e:4x4", "v5p:2x2x1", "v5p:2x2x2", "v6e:2x2", "v6e:4x4"),
    *("h100", "h100:8", "h200", "h200:8", "a100", "a100:8", "l4", "l4:8", HERE),
)


def find(name: str) -> Target:
    """Returns a target by its name, `v5e:2x2`, `h100`, `h100:8` or `here`.

    Raises:
      InputError: there is no such target, or its compiler is not installed.
    """
    if name == HERE:
        return Target(name, _chip_here(), tuple(jax.devices()))
    kind, _, topology = name.partition(":")
    chip = CHIPS.get(kind)
    if chip is None:
        raise _unknown(name)
    return Target(name, chip, _gpus(name, chip) if chip.description else _tpus(name))


def _unknown(name: str) -> InputError:
    """Returns the error of a name that is no target."""
    nearest = did_you_mean(name, EXAMPLES)
    return InputError(f"--target={name}: expected one of {', '.join(EXAMPLES)}.{nearest}")


def _tpus(name: str) -> tuple[jax.Device, ...]:
    """Returns the devices of a TPU's topology."""
    from jax.experimental import topologies

    _check_installed(name, "libtpu")
    for variable, value in _WITHOUT_A_TPU.items():
        os.environ.setdefault(variable, value)
    try:
        topology = topologies.get_topology_desc(topology_name=name, platform="tpu")
    except Exception as error:  # of libtpu: no such topology
        raise _unknown(name) from error
    return tuple(topology.devices)


def _gpus(name: str, chip: Chip) -> tuple[jax.Device, ...]:
    """Returns as many of a card as the name says."""
    from jax.experimental import topologies

    count = name.partition(":")[2] or "1"
    if not count.isdecimal() or not 1 <= int(count) <= 8:
        raise _unknown(name)
    _check_installed(name, "jax_cuda13_plugin")
    topology = topologies.get_topology_desc(
        topology_name=name,
        platform="cuda",
        target_config=chip.description,
        topology=f"1x1x{int(count)}",
    )
    return tuple(topology.devices)


def _check_installed(name: str, module: str) -> None:
    """Raises `InputError` where a compiler is missing."""
    if importlib.util.find_spec(module) is None:
        raise InputError(f"--target={name}: its compiler is not installed; {_INSTALL}")


def _chip_here() -> Chip | None:
    """Returns the chip at hand, of known kinds; None of others."""
    kind = jax.devices()[0].device_kind.lower()
    names = {
        "v5 lite": "v5e",
        "v5e": "v5e",
        "v5": "v5p",
        "v6 lite": "v6e",
        "v6e": "v6e",
        "v4": "v4",
    }
    for name in ("h100", "h200", "a100", "l4"):
        if name in kind.split() or f"{name}-" in kind:
            return CHIPS[name]
    return CHIPS.get(names.get(kind.removeprefix("tpu "), ""))
