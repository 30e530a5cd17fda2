"""How a stage starts and ends: command-line arguments, signals, errors in one line."""

import contextlib
import ctypes
import gc
import io
import os
import platform
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import psutil

from pipeline.tinybert.core import dvc_yaml
from pipeline.tinybert.core.errors import Interrupted, UserError, is_about_a_file, message, was_interrupted
from pipeline.tinybert.core.log import log, rank

SECONDS_FOR_ANOTHER_TO_END = 12  # the processes of a killed launcher take that long
SIGNALS = (signal.SIGINT, signal.SIGTERM)
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


def report_errors_in_one_line() -> None:
    """From here on, an error the user can fix ends the process with one line and exit code 1, without a traceback."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if isinstance(sys.stdout, io.TextIOWrapper):  # not every terminal or log file takes every character
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.excepthook = _report
    for number in SIGNALS:
        signal.signal(number, _end_now)


def imports_are_done() -> None:
    """From here on files are written: a signal becomes an exception, so that half-written ones are deleted.

    Imported modules live until the process ends: exclude them from garbage collection.
    """
    for number in SIGNALS:
        if signal.getsignal(number) is _end_now:
            signal.signal(number, _raise_interrupted)
    gc.freeze()
    gc.enable()


def run(main: Callable[..., None], *names: str, flags: tuple[str, ...] = (), within: Callable | None = None) -> None:
    """Call a stage's ``main`` with the command line's arguments: one for each of ``names``, and ``flag=True`` for each
    ``--flag`` given. ``within`` is a context manager that takes the stage's name and arguments.

    Logs a line when the stage starts, and one with its time and peak memory when it is done.
    """
    imports_are_done()
    stage_name = Path(sys.argv[0]).stem
    arguments, chosen = _parse_arguments(stage_name, names, flags)
    title = " ".join([stage_name, *arguments])
    log(f"{title}: starts")
    keep_freed_memory()
    start = time.perf_counter()
    with contextlib.ExitStack() as around:
        if not chosen:  # a flag asks for a run that writes nothing
            around.enter_context(_lock_stage(title))
            around.enter_context(_fail_if_inputs_change(stage_name, arguments))
        if within:
            around.enter_context(within(stage_name, arguments))
        around.enter_context(_explain_missing_inputs(arguments))
        main(*arguments, **chosen)
    log(f"{title}: done in {time.perf_counter() - start:.0f} s, peak memory {peak_memory_gib():.2f} GiB")


def _parse_arguments(
    stage_name: str, names: tuple[str, ...], flags: tuple[str, ...]
) -> tuple[list[str], dict[str, bool]]:
    """The command line's values of ``names``, and ``{flag: True}`` for each flag given."""
    chosen = {flag: True for flag in flags if f"--{flag}" in sys.argv[1:]}
    # DVC writes ``--task NAME`` and quotes the name for the shell; ``NAME`` alone is the same.
    leave_out = {f"--{word}" for word in (*names, *chosen)}
    arguments = [argument for argument in sys.argv[1:] if argument not in leave_out]
    unknown = [argument for argument in arguments if argument.startswith("-")]
    if len(arguments) != len(names) or unknown:
        parts = [f"python -m pipeline.{stage_name}", *(f"<{name}>" for name in names)]
        parts += [f"[--{flag}]" for flag in flags]
        found = f"no option {unknown[0]}" if unknown else f"{len(arguments)} arguments given, {len(names)} expected"
        raise UserError(f"{found}: {' '.join(parts)}")
    return arguments, chosen


@contextlib.contextmanager
def _lock_stage(title: str) -> Iterator[None]:
    """Raise UserError if another process runs the same stage in this folder: both would write the same files."""
    import filelock

    if rank() > 0 or not Path(".dvc").is_dir():
        yield
        return
    path = Path(".dvc", "tmp", re.sub(r"[^\w-]", "-", title) + ".running")
    path.parent.mkdir(exist_ok=True)
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=SECONDS_FOR_ANOTHER_TO_END)
    except filelock.Timeout:
        raise UserError(
            f"another process runs {title} in this folder: wait until it has ended, or end it, then start again"
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _fail_if_inputs_change(stage_name: str, arguments: list[str]) -> Iterator[None]:
    """Raise UserError if settings, inputs or code of the stage change while the block runs.

    DVC hashes them after the stage, so it would record the new ones for a result of the old ones.
    """
    if rank() > 0 or not dvc_yaml.inputs(stage_name, arguments):
        yield
        return
    before = dvc_yaml.state(stage_name, arguments)
    yield
    after = dvc_yaml.state(stage_name, arguments)
    changed = [name for part in before for name in before[part] if before[part][name] != after[part].get(name)]
    if changed:
        target = "@".join([stage_name, *arguments])
        raise UserError(
            f"{', '.join(changed)} changed while this stage ran, and its result is that of the old state: run"
            f" `dvc repro {target}` again; or, to keep the result, undo the change and run `dvc commit -f {target}`"
        )


@contextlib.contextmanager
def _explain_missing_inputs(arguments: list[str]) -> Iterator[None]:
    """If reading a file fails and an input listed in dvc.yaml is missing, raise a UserError that says what to run."""
    try:
        yield
    except Exception as error:
        stage_name = Path(sys.argv[0]).stem
        missing = [path for path in dvc_yaml.inputs(stage_name, arguments) if not Path(path).exists()]
        if not missing or not is_about_a_file(error):
            raise
        target = "@".join([stage_name, *arguments])
        raise UserError(
            f"there is no {missing[0]}: run `dvc repro {target}`, which first runs the stages that this one needs"
        ) from error


def keep_freed_memory() -> None:
    """Let a training step reuse the large blocks that the step before freed. By default glibc returns them to the
    system, which clears them page by page when they are requested again: a quarter of a step on long texts.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1)):
            library.mallopt(option, value)


def peak_memory_gib() -> float:
    """The most memory this process has held so far, in GiB."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / (1 << 30)
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 30 if sys.platform == "darwin" else 1 << 20)


def _end_now(number: int, _frame: object) -> None:
    """Handle a signal while modules are imported. An exception would be lost: imports of optional packages catch it,
    and C extensions replace it.
    """
    error = Interrupted(interrupted(signal.Signals(number)))
    print_error(str(error), error)
    os._exit(1)


def _raise_interrupted(number: int, _frame: object) -> None:
    for other in SIGNALS:  # a second signal must not disturb the cleanup; SIG_IGN would make Python report this one
        signal.signal(other, lambda number, frame: None)
    raise Interrupted(interrupted(signal.Signals(number)))


def interrupted(number: signal.Signals) -> str:
    return f"interrupted ({number.name}): no half-written file is left; `dvc repro` resumes"


def _report(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if (line := message(error)) is None:
        sys.__excepthook__(kind, error, traceback)
    else:
        print_error(line, error)


def print_error(line: str, error: BaseException) -> None:
    if was_interrupted(error) and "TORCHELASTIC_RUN_ID" in os.environ:
        return  # torchrun was interrupted too, and reports it
    _close_progress_bars()
    print(f"\n{Path(sys.argv[0]).stem}: {line}", file=sys.stderr, flush=True)


def _close_progress_bars() -> None:
    """Close them now: when the process ends, they would be drawn over the message."""
    bars = sys.modules["tqdm"].tqdm._instances if "tqdm" in sys.modules else ()
    for bar in sorted(bars, key=lambda bar: bar.pos):  # inner bars first
        bar.close()
