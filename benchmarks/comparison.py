"""Shared by the benchmarks: time implementations in turn, count operations, measure peak speed, print tables."""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.tinybert.core.log import log
from pipeline.tinybert.models.precision import to_inference

if TYPE_CHECKING:
    from pipeline.tinybert.core.settings import Shape

CPU = torch.device("cpu")
LARGE, LARGE_ON_GPU = 2048, 8192
TRAINING = (
    3  # cost of a training step, in forwards: the backward pass has two matrix products for each of the forward's
)


@dataclass
class Side:
    """One implementation of a piece of work. ``operations``: the floating-point operations needed, without padding."""

    run: Callable[[], object]
    operations: float = 0.0
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def in_turn(sides: dict[str, Side], rounds: int, title: str) -> None:
    """Run the implementations in turn, ``rounds`` times, and append each run's time to its ``seconds``."""
    for number in range(1, rounds + 1):
        for name, side in sides.items():
            torch.use_deterministic_algorithms(False)  # a training stage may have turned it on
            start = time.perf_counter()
            side.run()
            wait_for_the_device()
            side.seconds.append(time.perf_counter() - start)
            log(f"{title}, round {number} of {rounds}: {name} {side.seconds[-1]:.2f} s")


def multiplications(shape: Shape, length: int) -> int:
    """Multiplications per position in a model's encoder layers, for a text of ``length`` word pieces."""
    return shape.layers * layer_multiplications(shape, length)


def layer_multiplications(shape: Shape, length: int) -> int:
    """Multiplications per position in one encoder layer."""
    return 4 * shape.hidden**2 + 2 * shape.hidden * shape.feed_forward + 2 * length * shape.hidden


def forward_operations(shape: Shape, lengths: Iterable[int], first_position: bool = False) -> float:
    """Floating-point operations (two per multiplication) of a forward over texts of these lengths in word pieces.

    first_position: the last layer computes the first position only, with keys and values of all positions.
    """
    keys_and_values = 2 * shape.hidden**2
    operations = 0.0
    for length in lengths:
        operations += 2.0 * length * multiplications(shape, length)
        if first_position:
            operations -= 2.0 * (length - 1) * (layer_multiplications(shape, length) - keys_and_values)
    return operations


def limit(dtype: torch.dtype, device: torch.device = CPU, rounds: int = 7) -> float:
    """Peak operations per second: of a large matrix product, by the faster of two ways, the median of ``rounds``."""
    size = LARGE if device == CPU else LARGE_ON_GPU
    one, other = (torch.rand(size, size, dtype=dtype, device=device) for _ in range(2))
    linear = to_inference(nn.Linear(size, size, bias=False, dtype=dtype), "float32", device)
    with torch.no_grad():
        return 2 * size**3 / min(median_time(way, rounds) for way in (lambda: one @ other, lambda: linear(one)))


def median_time(work: Callable[[], object], rounds: int) -> float:
    """Median seconds of ``rounds`` runs, after one that is not counted."""
    seconds = []
    for _ in range(rounds + 1):
        wait_for_the_device()
        start = time.perf_counter()
        work()
        wait_for_the_device()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def wait_for_the_device() -> None:
    """Wait until the GPU, if there is one, has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def machine() -> str:
    return f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
