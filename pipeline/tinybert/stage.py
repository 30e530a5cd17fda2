"""How a stage starts and how it ends: arguments, progress, errors in one line, whole outputs or none."""

import contextlib
import contextvars
import ctypes
import errno
import gc
import os
import platform
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

# How the libraries say it that lose the error's number: those in Rust, numpy, torch.
FULL_DISK = re.compile(
    r"No space left on device|\d+ requested and \d+ written|iostream error|unexpected pos \d+ vs \d+"
)

ENDING = (signal.SIGINT, signal.SIGTERM)
SHOWN = 10
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


class UserError(Exception):
    """Something that the user can mend. The message names the file, row or key and says what to do."""


class Interrupted(BaseException):
    """Ctrl-C or a request to end. Not an Exception, so that no library swallows it."""


def end_in_one_line() -> None:
    """From here on what the user can mend ends the process with one line and exit code 1, without a traceback."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    sys.excepthook = _report
    end_on_signals()


def imports_are_done() -> None:
    """What they made lives to the end: neither a search for garbage nor the end of the process goes through it."""
    gc.freeze()
    gc.enable()


def end_on_signals() -> None:
    """By an exception, so that what is half-written goes."""
    for number in ENDING:
        signal.signal(number, _interrupt)


def process_number() -> int:
    """Where a stage runs in several processes, the number of this one; the first one, 0, writes and speaks for all."""
    return int(os.environ.get("RANK", 0))


def run(main: Callable[..., None], *names: str, flags: tuple[str, ...] = (), within: Callable | None = None) -> None:
    """Call a stage's ``main`` with the command line's arguments, one for each of ``names``, and ``flag=True`` for each
    ``--flag`` that is given; in the context ``within`` of the stage's name and arguments.

    Prints a line as the stage starts, and one with its time and its peak memory when it is done.
    """
    imports_are_done()
    stage_name = Path(sys.argv[0]).stem
    chosen = {flag: True for flag in flags if f"--{flag}" in sys.argv[1:]}
    arguments = [argument for argument in sys.argv[1:] if argument.removeprefix("--") not in chosen]
    unknown = [argument for argument in arguments if argument.startswith("-")]
    if len(arguments) != len(names) or unknown:
        usage = " ".join(
            [
                "python -m",
                f"pipeline.{stage_name}",
                *(f"<{name}>" for name in names),
                *(f"[--{flag}]" for flag in flags),
            ]
        )
        found = f"no option {unknown[0]}" if unknown else f"{len(arguments)} arguments given, {len(names)} expected"
        raise UserError(f"{found}: {usage}")
    title = " ".join([stage_name, *arguments])
    say(f"{title}: starts")
    keep_freed_memory()
    start = time.perf_counter()
    with within(stage_name, arguments) if within else contextlib.nullcontext():
        main(*arguments, **chosen)
    say(f"{title}: done in {time.perf_counter() - start:.0f} s, peak memory {peak_memory_gib():.2f} GiB")


def keep_freed_memory() -> None:
    """Large blocks that a step of training frees serve the next one. The C library of Linux would give them back to the
    system, which fills them with zeros, page by page, as they are asked for again: a quarter of a step on long texts.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1)):
            library.mallopt(option, value)


def say(message: str) -> None:
    if process_number() == 0:
        print(message, flush=True)


def say_how_many(count: int, total: int, what: str) -> None:
    """ "3 of 10" and what, where there are any; within ``adding_up`` at its end, for all that was counted there."""
    tally = _tally.get()
    if tally is not None:
        before = tally.get(what, (0, 0))
        tally[what] = before[0] + count, before[1] + total
    elif count:
        say(f"{count} of {total} {what}")


_tally: contextvars.ContextVar[dict[str, tuple[int, int]] | None] = contextvars.ContextVar("tally", default=None)


@contextlib.contextmanager
def adding_up() -> Iterator[None]:
    """For work that is done in parts: what they count is said once, for the whole."""
    tally = {}
    token = _tally.set(tally)
    try:
        yield
    finally:
        _tally.reset(token)
    for what, (count, total) in tally.items():
        say_how_many(count, total, what)


def shown(found: list) -> str:
    """The first ten, and how many more."""
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return "; ".join(map(str, found[:SHOWN])) + more


def peak_memory_gib() -> float:
    """The most memory this process has held so far, in GiB."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / (1 << 30)
    import resource  # Windows has none

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 30 if sys.platform == "darwin" else 1 << 20)


@contextlib.contextmanager
def output(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder (or, for a path with a suffix, a file name) that takes ``path``'s place at the end.

    When the block does not end well, ``path`` is as it was and what was written is gone. So it is, however the block
    ends, in each process but the first.
    """
    path = Path(path)
    if process_number() > 0:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) if not path.suffix else Path(folder, path.name)
        return
    partial = path.with_name(f".{path.name}.partial")
    _remove(partial)
    partial.parent.mkdir(parents=True, exist_ok=True)
    if not path.suffix:
        partial.mkdir()
    try:
        yield partial
        _remove(path)
        partial.rename(path)
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _interrupt(number: int, _frame: object) -> None:
    for other in ENDING:  # which would disturb the clearing away; SIG_IGN would let Python complain of one on its way
        signal.signal(other, lambda number, frame: None)
    raise Interrupted(f"interrupted ({signal.Signals(number).name}); nothing half-written is left, `dvc repro` goes on")


def _report(kind: type[BaseException], error: BaseException, traceback: object) -> None:
    said = message(error)
    if said is None:
        sys.__excepthook__(kind, error, traceback)
    else:
        _close_progress_bars()
        name = Path(sys.argv[0]).stem
        print(f"\n{name}: {said}", file=sys.stderr, flush=True)


def _close_progress_bars() -> None:
    """Else they are drawn over the message as the process ends."""
    bars = sys.modules["tqdm"].tqdm._instances if "tqdm" in sys.modules else ()
    for bar in sorted(bars, key=lambda bar: bar.pos):  # the inner ones first
        bar.close()


def message(error: BaseException) -> str | None:
    """One line for what the user can mend, None for what is a defect of the program."""
    chain, cause = [], error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    for cause in chain:
        if getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or FULL_DISK.search(str(cause)):
            where = f" while writing {cause.filename}" if getattr(cause, "filename", None) else ""
            return f"the disk is full{where}: free some space, then `dvc repro` goes on"
    if any(type(cause).__name__ == "OutOfMemoryError" for cause in chain):  # torch's, of a GPU
        return "the GPU's memory is full: set a smaller batch_size, or the environment variable TINYBERT_CUDA_GRAPHS=0"
    if isinstance(error, UserError | Interrupted):
        return " ".join(str(error).split())
    return None
