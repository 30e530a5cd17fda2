"""What a stage prints while it runs. With several processes only the first one prints."""

import contextlib
import contextvars
import logging
import os
import sys
from collections.abc import Iterator

SHOWN = 10

_logger = logging.getLogger("tinybert")


class _Stdout(logging.StreamHandler):
    """Writes to the current ``sys.stdout``, which tests and callers may redirect."""

    def __init__(self):
        logging.Handler.__init__(self)

    @property
    def stream(self):
        return sys.stdout

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 named by the library
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            stop_printing()
        else:
            super().handleError(record)


def rank() -> int:
    """The number of this process, from 0. The first process writes and prints for all."""
    return int(os.environ.get("RANK", 0))


def stop_printing() -> None:
    """Drop what is printed from here on: its reader has closed the pipe, as `head` does."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def log(message: str) -> None:
    if rank() == 0:
        _logger.info(message)


def log_count(count: int, total: int, what: str) -> None:
    """Log "3 of 10" and what was counted, if the count is not 0. Inside ``summed_counts``: once, at the block's end."""
    sums = _sums.get()
    if sums is not None:
        before = sums.get(what, (0, 0))
        sums[what] = before[0] + count, before[1] + total
    elif count:
        log(f"{count} of {total} {what}")


Sums = dict[str, tuple[int, int]]  # what was counted → its count, and of how many
_sums: contextvars.ContextVar[Sums | None] = contextvars.ContextVar("sums", default=None)


@contextlib.contextmanager
def _collected_counts() -> Iterator[Sums]:
    """Inside the block, ``log_count`` only adds to the sums that this yields."""
    sums: Sums = {}
    token = _sums.set(sums)
    try:
        yield sums
    finally:
        _sums.reset(token)


@contextlib.contextmanager
def without_counts() -> Iterator[None]:
    """Inside the block, ``log_count`` logs nothing: counts of a sample mean little."""
    with _collected_counts():
        yield


@contextlib.contextmanager
def summed_counts() -> Iterator[None]:
    """For work in several batches: inside the block, ``log_count`` sums its counts; they are logged at the end."""
    with _collected_counts() as sums:
        yield
    for what, (count, total) in sums.items():
        log_count(count, total, what)


def first_ten(items: list, separator: str = "; ") -> str:
    """The first ten items, and how many more there are."""
    more = f"{separator}and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return separator.join(map(str, items[:SHOWN])) + more


_logger.setLevel(logging.INFO)
_logger.propagate = False
if not _logger.handlers:
    _logger.addHandler(_Stdout())
