"""Compiled programs kept in a run's folder, so that the next start does not compile again."""

import hashlib
import os
import platform
from pathlib import Path

import jax

from cmgems_jax.pretraining import packaged, pretrained
from cmgems_jax.runtime import outputs

FOLDER = "compile_cache"
_LEAST_S = 0.1  # of compilation; shorter programs are not kept (jax: 1.0)
_CPU_INFO = Path("/proc/cpuinfo")


def use(workdir: Path | str) -> None:
    """Keeps compiled programs in WORKDIR/compile_cache from now on.

    Nothing changes where jax was given another folder (JAX_COMPILATION_CACHE_DIR) or
    WORKDIR cannot be written to; JAX_ENABLE_COMPILATION_CACHE=false turns it off. A
    program's key is its code, jax's version, the devices and the compiler's flags;
    entries that cannot be read are compiled again.
    """
    workdir = Path(workdir).absolute()
    is_given = jax.config.jax_compilation_cache_dir is not None
    if is_given or not os.access(outputs.nearest_folder(workdir), os.W_OK):
        return
    jax.config.update("jax_compilation_cache_dir", str(workdir / FOLDER / _machine()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_S)


def use_of(checkpoint: Path | str) -> None:
    """Does the same in the work folder of a checkpoint, see `pretrained.locate`."""
    if not packaged.is_name(checkpoint):
        use(pretrained.locate(checkpoint)[0])


def _machine() -> str:
    """Returns a folder's name for programs that run here.

    What is compiled for a CPU uses the instructions of that model, which jax's own key
    does not hold: on another model it might not run.
    """
    if jax.default_backend() != "cpu":
        return jax.default_backend()
    features = platform.processor()
    if _CPU_INFO.is_file():
        lines = _CPU_INFO.read_text().splitlines()
        features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"cpu-{hashlib.sha256(features.encode()).hexdigest()[:12]}"
