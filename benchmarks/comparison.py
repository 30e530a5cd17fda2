"""What the benchmarks share: running two sides in turn, counting operations, the machine's limit, the table."""

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
TRAINING = 3  # forwards that a training step costs: the backward pass has two products for each of the forward's


@dataclass
class Side:
    """One way to do a piece of work: ``run`` does it; ``operations`` are those that it needs, padding not counted."""

    run: Callable[[], object]
    operations: float = 0.0
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def in_turn(sides: dict[str, Side], rounds: int, what: str) -> None:
    """Run the sides one after the other, so many times, and let each note its seconds."""
    for number in range(1, rounds + 1):
        for name, side in sides.items():
            torch.use_deterministic_algorithms(False)  # as the library's Trainer has left it: it sets it for itself
            start = time.perf_counter()
            side.run()
            wait_for_the_device()
            side.seconds.append(time.perf_counter() - start)
            log(f"{what}, round {number} of {rounds}: {name} {side.seconds[-1]:.2f} s")


def multiplications(shape: Shape, length: int) -> int:
    """In the encoder layers of a model, for each position of a text of ``length`` word-pieces."""
    return shape.layers * of_a_layer(shape, length)


def of_a_layer(shape: Shape, length: int) -> int:
    return 4 * shape.hidden**2 + 2 * shape.hidden * shape.feed_forward + 2 * length * shape.hidden


def forward_operations(shape: Shape, lengths: Iterable[int], first_position: bool = False) -> float:
    """Floating-point operations, two for each multiplication, of a forward over texts of so many word-pieces each;
    ``first_position``: of the last layer only what the first position needs, which has keys and values of all.
    """
    keys_and_values = 2 * shape.hidden**2
    operations = 0.0
    for length in lengths:
        operations += 2.0 * length * multiplications(shape, length)
        if first_position:
            operations -= 2.0 * (length - 1) * (of_a_layer(shape, length) - keys_and_values)
    return operations


def limit(dtype: torch.dtype, device: torch.device = CPU, rounds: int = 7) -> float:
    """Operations a second of a large matrix product: the median of so many, of the faster way to compute it."""
    size = LARGE if device == CPU else LARGE_ON_GPU
    one, other = (torch.rand(size, size, dtype=dtype, device=device) for _ in range(2))
    laid_out = to_inference(nn.Linear(size, size, bias=False, dtype=dtype), "float32", device)
    with torch.no_grad():
        return 2 * size**3 / min(median_time(way, rounds) for way in (lambda: one @ other, lambda: laid_out(one)))


def median_time(work: Callable[[], object], rounds: int) -> float:
    """Seconds, once it has run before."""
    seconds = []
    for _ in range(rounds + 1):
        wait_for_the_device()
        start = time.perf_counter()
        work()
        wait_for_the_device()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def wait_for_the_device() -> None:
    """To have done what it was asked."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def machine() -> str:
    return f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
