"""One stage in several processes, by accelerate: each takes its share of the rows, the first one writes and speaks.

How many is no parameter, because the result is the same: the environment says it, or accelerate's configuration.
"""

import contextlib
import functools
import os
import signal
import socket
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from multiprocessing import connection
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.commands.config.config_args import default_config_file, load_config_from_file
from accelerate.utils import PrepareForLaunch, broadcast_object_list, patch_environment, reduce
from torch import Tensor, distributed, multiprocessing

from pipeline.tinybert.core import stage
from pipeline.tinybert.core.errors import UserError, message
from pipeline.tinybert.core.log import rank

VARIABLE = "TINYBERT_PROCESSES"
GRACE = 10  # seconds to clear away in
LONGEST_WAIT = timedelta(days=7)  # for the first one, which encodes and writes while the others have nothing to do


def run(main: Callable[..., None], *names: str, **options) -> None:
    """`stage.run`, in as many processes as are wanted; what a launcher has started, as torchrun, is one of those."""
    wanted = 1 if "WORLD_SIZE" in os.environ else _wanted()
    if wanted == 1:
        stage.run(main, *names, **options)
    else:
        _launch(wanted, main, names, options)


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def device() -> torch.device:
    return _state().device


def wait() -> None:
    """For all the others to come here too."""
    if world_size() > 1:
        _state().wait_for_everyone()


@contextlib.contextmanager
def main_process_first() -> Iterator[None]:
    """The block runs in the first process, then in the others."""
    with _state().main_process_first() if world_size() > 1 else contextlib.nullcontext():
        yield


def broadcast_object(value: object) -> object:
    """The first process's value, in all of them."""
    if world_size() == 1:
        return value
    _state()
    return broadcast_object_list([value])[0]


def broadcast_bool(what: bool) -> bool:
    """Whether the first process says so. Told beside what GPUs compute, so that they need not wait for it."""
    if world_size() == 1:
        return what
    told = torch.tensor([what])
    distributed.broadcast(told, src=0, group=_telling())
    return bool(told)


@functools.cache
def _telling() -> distributed.ProcessGroup:
    _state()
    return distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)


def mean(values: Tensor) -> Tensor:
    """Over the processes, element by element."""
    return values if world_size() == 1 else reduce(values.to(device()), "mean")


def _state() -> PartialState:
    if world_size() == 1:
        return PartialState()
    if not torch.cuda.is_available():
        os.environ["ACCELERATE_USE_CPU"] = "true"  # else the Trainer would take itself for the only one
    return PartialState(cpu=not torch.cuda.is_available(), timeout=LONGEST_WAIT)


def _wanted() -> int:
    text = os.environ.get(VARIABLE)
    if text is None:
        return _configured()
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"{VARIABLE}: '{text}': expected how many processes, 1 or more")
    return int(text)


def _configured() -> int:
    """By ``accelerate config``, where it has been asked for several CPUs or GPUs."""
    if not Path(default_config_file).is_file():
        return 1
    configured = load_config_from_file(None)
    several = str(configured.distributed_type).endswith(("MULTI_CPU", "MULTI_GPU"))
    return max(1, configured.num_processes) if several else 1


def _launch(count: int, *call) -> None:
    gpus = torch.cuda.device_count()
    if gpus and count > gpus:
        raise UserError(f"{count} processes, but {gpus} GPUs: set {VARIABLE} to {gpus} or less")
    errors = multiprocessing.get_context("spawn").SimpleQueue()
    environment = {
        "WORLD_SIZE": count,
        "LOCAL_WORLD_SIZE": count,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": _free_port(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or max(1, torch.get_num_threads() // count),
    }
    with patch_environment(**environment), _ctrl_c_ignored():
        children = multiprocessing.start_processes(
            PrepareForLaunch(_one_of_them, "MULTI_GPU" if gpus else "MULTI_CPU"),
            args=(errors, *call),
            nprocs=count,
            join=False,
            daemon=True,
            start_method="spawn",
        )
    try:
        failed = _first_failed(children.processes)
    finally:
        _end(children.processes)
    if failed is not None:
        raise _what_went_wrong(children.processes, failed, errors)


def _first_failed(processes: list) -> int | None:
    """The number of the process that fails first, which the others cannot go on without; None once all are done."""
    running = {process.sentinel: number for number, process in enumerate(processes)}
    while running:
        ended = [running.pop(sentinel) for sentinel in connection.wait(running)]
        for number in ended:
            processes[number].join()
        for number in sorted(ended, key=lambda number: processes[number].exitcode):  # those that were killed first
            if processes[number].exitcode:
                return number
    return None


def _end(processes: list) -> None:
    """One that waits for another on a GPU does not hear that it shall end."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(GRACE)
        process.kill()
        process.join()


@contextlib.contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    """By processes that are started in the block, until they do something about it themselves."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _one_of_them(errors, main: Callable[..., None], names: tuple[str, ...], options: dict) -> None:
    """What this process cannot go on for, its parent tells, once: the others may have met with the same."""
    stage.stop_on_signals()
    try:
        stage.run(main, *names, **options)
    except BaseException as error:
        errors.put((message(error), traceback.format_exc()))
        raise SystemExit(1) from None
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _what_went_wrong(processes: list, failed: int, errors) -> Exception:
    """What the process has met with; where it was killed, it could not say."""
    exitcode = processes[failed].exitcode
    if exitcode < 0:
        return UserError(
            f"process {failed + 1} of {len(processes)} was ended by {signal.Signals(-exitcode).name}: where memory is"
            f" short, fewer processes take less ({VARIABLE}); `dvc repro` goes on"
        )
    message, trace = (None, "") if errors.empty() else errors.get()
    return UserError(message) if message else RuntimeError(f"one of {len(processes)} processes ended\n{trace}")


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]
