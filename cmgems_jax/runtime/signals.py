"""SIGTERM and SIGINT as requests to stop after the running step."""

import contextlib
import dataclasses
import os
import signal
import sys
import threading
from collections.abc import Iterator

STOPS = (signal.SIGTERM, signal.SIGINT)


@dataclasses.dataclass
class StopRequest:
    """`signal` is the name of the first signal that came, "" before."""

    signal: str = ""


@contextlib.contextmanager
def stop_requests(when: str = "after this step") -> Iterator[StopRequest]:
    """Yields a request that SIGTERM or SIGINT fills; restores the handlers at the end.

    The step in progress and the checkpoint after it are finished; further
    signals change nothing, so none can tear a checkpoint. Each is answered on stderr
    at once, with the words of `when`. Outside the main thread, where Python allows no handlers,
    nothing is caught.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(number: int, _: object) -> None:
        request.signal = request.signal or signal.Signals(number).name

    with _answered(when):
        before = {number: signal.signal(number, note) for number in STOPS}
        try:
            yield request
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def _answered(when: str) -> Iterator[None]:
    """Answers signals from a thread: the main one may be inside a compiled step for long."""
    received, wakeup = os.pipe()
    os.set_blocking(wakeup, False)

    def answer() -> None:
        text = f"stopping {when}, and saving"
        again = (
            f"still {text}; kill -9 {os.getpid()} ends it at once, and the newest checkpoint stays"
        )
        while number := os.read(received, 1)[0]:
            if number in STOPS:
                name = signal.Signals(number).name
                print(f"{name}: {text}", file=sys.stderr, flush=True)
                text = again

    thread = threading.Thread(target=answer, name="signals", daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(wakeup)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.write(wakeup, b"\0")
        thread.join()
        os.close(received)
        os.close(wakeup)
