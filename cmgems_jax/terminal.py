"""What a command prints while it works: progress, and streams on which no message fails."""

import contextlib
import os
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from tqdm import tqdm

_DELAY_S = 3.0  # shorter work has no bar
_LINE_EVERY_S = 30.0  # where no terminal shows a bar


def bar(
    items: Iterable | None = None,
    *,
    desc: str,
    unit: str,
    total: int | None = None,
    initial: int = 0,
    unit_scale: bool = False,
    disable: bool = False,
) -> tqdm:
    """Returns a bar on stderr, shown once the work takes seconds; elsewhere it prints lines.

    Args:
      items: to go through, or None where `update` is called.
      desc: what is done.
      unit: what is counted, in the plural.
      total: where `items` have no length; None where it is not known.
      initial: how many were done before.
      unit_scale: print thousands as k, and so on.
      disable: print nothing.
    """
    given = {"desc": desc, "total": total, "initial": initial} | {
        "unit_scale": unit_scale,
        "disable": disable,
    }
    if sys.stderr is not None and sys.stderr.isatty():
        return tqdm(items, unit=f" {unit}", delay=_DELAY_S, leave=False, **given)
    return _Lines(
        items,
        unit=unit,
        delay=_LINE_EVERY_S,
        mininterval=_LINE_EVERY_S,
        maxinterval=_LINE_EVERY_S,
        bar_format="{desc}: {n_fmt} of {total_fmt} {unit} in {elapsed}, {remaining} left",
        leave=False,
        **given,
    )


def say(shown: tqdm, text: str) -> None:
    """Prints a line on stdout while a bar may be shown, which stays the last line."""
    is_line = isinstance(shown, _Lines)
    with contextlib.nullcontext() if is_line else shown.external_write_mode(file=sys.stdout):
        print(text, flush=True)


class _Lines(tqdm):
    """A bar's text as a line of its own, at intervals."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Prints a line; nothing in place of clearing a bar."""
        if msg is None:
            print(self, file=self.fp, flush=True)


class _Unfailing:
    """A stream that drops what cannot be written: a closed pipe must not end hours of work."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes, or drops, the text."""
        try:
            return self._stream.write(text)
        except OSError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        """Writes, or drops, what is waiting."""
        try:
            self._stream.flush()
        except OSError:
            self._drop()

    def _drop(self) -> None:
        """Lets the stream lead nowhere, so that Python's own flush at the end succeeds too."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


def make_streams_unfailing() -> None:
    """Lets no message on stdout or stderr raise: letters of another encoding, a closed pipe."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None:
            stream.reconfigure(errors="backslashreplace")
            setattr(sys, name, _Unfailing(stream))
