"""SIGTERM and SIGINT as requests to stop after the running step."""

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Iterator


@dataclasses.dataclass
class StopRequest:
    """`signal` is the name of the first signal that came, "" before."""

    signal: str = ""


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Yields a request that SIGTERM or SIGINT fills; restores the handlers at the end.

    The step in progress and the checkpoint after it are finished; further
    signals change nothing, so none can tear a checkpoint. Outside the main
    thread, where Python allows no handlers, nothing is caught.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(number: int, _: object) -> None:
        request.signal = request.signal or signal.Signals(number).name

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
