"""Compiled programs kept in a run's folder, so that the next start does not compile again."""

import hashlib
import os
import platform
from pathlib import Path

import jax

from cmgems_jax.pretraining import checkpoints

FOLDER = "compile_cache"
_LEAST_S = 0.1  # of compilation; shorter programs are not kept (jax: 1.0)
_CPU_INFO = Path("/proc/cpuinfo")


def use(workdir: Path | str) -> None:
    """Keeps compiled programs in WORKDIR/compile_cache from now on.

    Nothing changes where jax was told another folder (JAX_COMPILATION_CACHE_DIR) or
    WORKDIR cannot be written to; JAX_ENABLE_COMPILATION_CACHE=false turns it off. A
    program is found by its code, jax's version, the devices and the compiler's flags;
    entries that cannot be read are compiled again.

    Args:
      workdir: made by the first program that is kept.
    """
    workdir = Path(workdir)
    if jax.config.jax_compilation_cache_dir is not None:
        return
    parent = next(path for path in (workdir, *workdir.absolute().parents) if path.exists())
    if not os.access(parent, os.W_OK):
        return
    folder = workdir.absolute() / FOLDER / _machine()
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_S)


def use_of(checkpoint: Path | str) -> None:
    """Does the same in the work folder that a checkpoint belongs to, where there is one.

    Args:
      checkpoint: WORKDIR, or WORKDIR/checkpoints/STEP.
    """
    checkpoint = Path(checkpoint)
    for workdir in (checkpoint, checkpoint.absolute().parent.parent):
        if (workdir / checkpoints.FOLDER).is_dir():
            use(workdir)
            return


def _machine() -> str:
    """Returns a folder's name for programs that run here.

    What is compiled for a CPU uses the instructions of that model, which jax's own key
    does not hold: on another model it might not run.
    """
    backend = jax.default_backend()
    if backend != "cpu":
        return backend
    features = platform.processor()
    if _CPU_INFO.is_file():
        lines = _CPU_INFO.read_text().splitlines()
        features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"cpu-{hashlib.sha256(features.encode()).hexdigest()[:12]}"
