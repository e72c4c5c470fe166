"""What a command prints while it works: progress, and streams on which no message fails."""

import contextlib
import io
import sys
from collections.abc import Iterable

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

    The arguments are tqdm's; `unit` is in the plural.
    """
    given = dict(desc=desc, total=total, initial=initial, unit_scale=unit_scale, disable=disable)
    if sys.stderr is not None and sys.stderr.isatty():
        return tqdm(items, unit=f" {unit}", delay=_DELAY_S, leave=False, **given)
    given |= dict.fromkeys(("delay", "mininterval", "maxinterval"), _LINE_EVERY_S)
    text = "{desc}: {n_fmt} of {total_fmt} {unit} in {elapsed}, {remaining} left"
    return _Lines(items, unit=unit, bar_format=text, leave=False, **given)


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


class _Unfailing(io.FileIO):
    """A file that drops what cannot be written: a closed pipe must not end hours of work."""

    def write(self, data: bytes) -> int:
        """Writes, or drops, the bytes."""
        try:
            return super().write(data)
        except OSError:
            return len(data)


def make_streams_unfailing() -> None:
    """Lets no message on stdout or stderr raise: letters of another encoding, a closed pipe."""
    for name in ("stdout", "stderr"):
        if stream := getattr(sys, name):
            file = io.BufferedWriter(_Unfailing(stream.fileno(), "w", closefd=False))
            made = io.TextIOWrapper(file, stream.encoding, "backslashreplace", line_buffering=True)
            setattr(sys, name, made)
