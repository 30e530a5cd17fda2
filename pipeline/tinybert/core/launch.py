"""Run a stage on several processes. A launcher (torchrun, accelerate launch, srun) starts them. Each takes its share of
the rows; only the first one writes and prints.

The number of processes changes results little (docs/running.md), so it is an environment variable, not a parameter:
``TINYBERT_PROCESSES=4`` starts four on this machine with torchrun; ``TINYBERT_LAUNCH`` is another launcher's command.
"""

import contextlib
import functools
import logging
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, reduce
from torch import Tensor, distributed

from pipeline.tinybert.core import stage
from pipeline.tinybert.core.errors import Interrupted, UserError, message
from pipeline.tinybert.core.log import rank as rank

COMMAND, PROCESSES = "TINYBERT_LAUNCH", "TINYBERT_PROCESSES"
LONGEST_WAIT = timedelta(days=7)  # for the first process, which encodes and writes while the others wait
SECONDS_FOR_THE_FIRST = 3
SECONDS_TO_STOP = 10
# Set for the launcher's children, so that they start no further launcher. Value: the process id of torchrun, or
# "unknown" for another launcher.
LAUNCHER_PID, UNKNOWN_PID = "TINYBERT_LAUNCHER_PID", "unknown"


def run(main: Callable[..., None], *names: str, **options) -> None:
    """`stage.run`, on as many processes as the environment asks for."""
    if "WORLD_SIZE" in os.environ:  # a launcher has started this process
        _exit_when_launcher_dies()
        with _errors_in_one_line():
            stage.run(main, *names, **options)
        if distributed.is_initialized():
            distributed.destroy_process_group()
    elif LAUNCHER_PID not in os.environ and (command := _launcher()):
        os.environ[LAUNCHER_PID] = UNKNOWN_PID  # a launcher may start one process without WORLD_SIZE
        _launch(*command)
    else:
        stage.run(main, *names, **options)


@contextlib.contextmanager
def _errors_in_one_line() -> Iterator[None]:
    """As `stage.report_errors_in_one_line`, whose hook torch replaces as soon as processes form a group.

    Usually all processes fail, with the same error or because the first one did. The first prints its error at once.
    The others wait a few seconds, in which the launcher ends them. They print an error only if the first did not fail.
    """
    try:
        yield
    except BaseException as error:
        if rank() > 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(SECONDS_FOR_THE_FIRST)
        if (line := message(error)) is None:
            raise
        stage.print_error(line, error)
        raise SystemExit(1) from None


def world_size() -> int:
    """The number of processes."""
    return int(os.environ.get("WORLD_SIZE", 1))


def device() -> torch.device:
    return _state().device


def wait() -> None:
    """Wait until all processes have reached this call."""
    if world_size() > 1:
        _state().wait_for_everyone()


def first(function: Callable[[], Any]) -> Any:
    """Call ``function`` in the first process, and return its result in all."""
    return broadcast_object(function() if rank() == 0 else None)


@contextlib.contextmanager
def main_process_first() -> Iterator[None]:
    """The block runs in the first process, then in the others."""
    with _state().main_process_first() if world_size() > 1 else contextlib.nullcontext():
        yield


def broadcast_object(value: Any) -> Any:
    """The first process's value, in all processes."""
    if world_size() == 1:
        return value
    _state()
    return broadcast_object_list([value])[0]


def broadcast_bool(value: bool) -> bool:
    """The first process's value, in all processes. It is sent between CPUs, so that no process waits for its GPU."""
    if world_size() == 1:
        return value
    sent = torch.tensor([value])
    distributed.broadcast(sent, src=0, group=_cpu_group())
    return bool(sent)


@functools.cache
def _cpu_group() -> distributed.ProcessGroup:
    _state()
    return distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)


def gather(items: Iterable) -> list:
    """The items of all processes, in every process."""
    if world_size() == 1:
        return list(items)
    _state()
    return gather_object(list(items))


def mean(values: Tensor) -> Tensor:
    """The mean over the processes, element by element."""
    return values if world_size() == 1 else reduce(values.to(device()), "mean")


def _state() -> PartialState:
    if world_size() == 1:
        return PartialState()
    if not torch.cuda.is_available():
        os.environ["ACCELERATE_USE_CPU"] = "true"  # otherwise accelerate would take this process for the only one
    return PartialState(cpu=not torch.cuda.is_available(), timeout=LONGEST_WAIT)


def _launcher() -> list[str] | None:
    """The launcher's command; None if the stage runs on one process."""
    if command := os.environ.get(COMMAND):
        return shlex.split(command)
    text = os.environ.get(PROCESSES, "1")
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"{PROCESSES}: '{text}': expected a number of processes, 1 or more")
    count, gpus = int(text), torch.cuda.device_count()
    if count == 1:
        return None
    if gpus and count > gpus:
        raise UserError(f"{PROCESSES}: {count} processes, but {gpus} GPUs: set it to {gpus} or less")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // count)))
    return ["torchrun", "--standalone", f"--nproc-per-node={count}"]


def _this_program() -> list[str]:
    """The running module or script with its arguments, as launchers take it."""
    spec = sys.modules["__main__"].__spec__
    return [*(["-m", spec.name] if spec else [sys.argv[0]]), *sys.argv[1:]]


def _launch(launcher: str, *arguments: str) -> None:
    if launcher == "torchrun":
        _torchrun([*arguments, *_this_program()])
        return
    sys.stdout.flush()
    try:
        os.execvp(launcher, [launcher, *arguments, *_this_program()])
    except OSError as error:
        raise UserError(f"{COMMAND}: {launcher} cannot be started: {error.strerror}") from None


def _torchrun(arguments: list[str]) -> None:
    """Run torchrun in this process. Its report of a failed process is left out: that process printed its own error."""
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    os.environ[LAUNCHER_PID] = str(os.getpid())
    logging.disable(logging.CRITICAL)  # of torchrun; its processes have their own
    try:
        torchrun.run(torchrun.parse_args(arguments))
    except SignalException as error:
        raise Interrupted(stage.interrupted(signal.Signals(error.sigval))) from None
    except ChildFailedError as error:
        number, failure = error.get_first_failure()
        if failure.exitcode < 0:
            raise UserError(
                f"process {number + 1} was killed by {signal.Signals(-failure.exitcode).name}: if memory is short,"
                f" start fewer processes ({PROCESSES}, {COMMAND}); then run `dvc repro` again; it resumes"
            ) from None
        raise SystemExit(1) from None


def _exit_when_launcher_dies() -> None:
    """End this process if its launcher was killed and could not end it."""
    launcher = os.environ.get(LAUNCHER_PID, UNKNOWN_PID)
    parent = os.getppid() if launcher == UNKNOWN_PID else int(launcher)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(SECONDS_TO_STOP)
        os._exit(1)  # a process that is blocked in a collective operation ignores signals

    threading.Thread(target=watch, daemon=True).start()
