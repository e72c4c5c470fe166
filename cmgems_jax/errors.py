"""Messages to the user: errors that they can mend, and notes."""

import difflib
import functools
import sys
from collections.abc import Iterable


class InputError(ValueError):
    """Something that the user gave is wrong: a file, a flag, a config field.

    The message is one line: where (file, record, line or field), what was
    found, what was expected, how to mend it. Commands print it behind
    `error: ` and exit with status 2, without a traceback.
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns ` Did you mean 'x'?` for the nearest known name, or nothing."""
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{nearest[0]}'?" if nearest else ""


class TrainingError(RuntimeError):
    """Training cannot continue: numbers that are not finite, a checkpoint that cannot be written.

    Commands print the message behind `error: ` and exit with status 1; what was
    saved before stays.
    """


@functools.cache  # files are read several times, and a note is made once
def note(text: str) -> None:
    """Prints on stderr what the user should know and need not mend; the same text once."""
    print(f"note: {text}", file=sys.stderr, flush=True)
