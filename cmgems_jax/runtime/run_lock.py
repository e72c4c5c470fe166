"""One writer per run folder: a lock that the operating system frees when its process ends."""

import contextlib
import fcntl
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from cmgems_jax.errors import InputError

NAME = ".lock"


class InUse(InputError):
    """Another process holds the lock."""


@contextlib.contextmanager
def held(workdir: Path, *, wait: bool = False) -> Iterator[None]:
    """Holds the lock of a folder, made where it is missing, naming host and process in it.

    The lock is the kernel's (flock), so it cannot be left behind by a crash; filelock would fall
    back to a file that can, and keeps no holder.

    Raises:
      InUse: another process holds it, and `wait` is False.
      InputError: the folder cannot be written.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = (workdir / NAME).open("a+")
    except OSError as error:
        raise InputError(
            f"{workdir}: cannot be written ({error.strerror}); give another folder"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise InUse(
                f"{workdir}: in use by {holder}; wait for it, or give another folder"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        yield
