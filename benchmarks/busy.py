"""A forward pass beside other programs: ``python benchmarks/busy.py`` measures it with several settings of OpenMP.

OpenMP's threads spin while they wait for each other. If other programs use the cores too, the spinning threads take the
time that the thread they wait for needs. GNU OpenMP, which torch uses on Linux, reads its settings from the environment
when torch is imported; a stage sets GOMP_SPINCOUNT=10000 unless the user has set it (pipeline/__init__.py).

It measures a forward of 32 texts of 28 word pieces through a model of the default encoder's size, beside 0, 1 and 2
other processes. ``--others torch`` lets these multiply matrices on all cores; otherwise they run a Python loop on one
core each. Each setting has its own process. The settings run in turn, for several rounds, and the table has medians.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

THREADS = 2
SETTINGS = {
    "default": {},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
}
VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
OTHERS = {
    "python": "while True: pass",
    "torch": "import torch; matrix = torch.rand(1024, 1024)\nwhile True: matrix @ matrix",
}
ROWS, LENGTH, VOCABULARY = 32, 28, 30522
WARM_UP, FORWARDS = 3, 15
SECONDS_TO_START = 5  # for the other processes
FORWARD = "import busy; print(busy.median_forward())"


def median_forward() -> float:
    """Median seconds of a forward in this process."""
    import torch
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=VOCABULARY, num_hidden_layers=6, hidden_size=384, num_attention_heads=12, intermediate_size=1536
    )
    model, ids = BertModel(config).eval(), torch.randint(5, VOCABULARY, (ROWS, LENGTH))
    seconds = []
    with torch.no_grad():
        for _ in range(WARM_UP + FORWARDS):
            start = time.perf_counter()
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[WARM_UP:])


def environment(changes: dict[str, str]) -> dict[str, str]:
    """This process's environment with the settings of OpenMP replaced."""
    without = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return {**without, "OMP_NUM_THREADS": str(THREADS), **changes}


def measured(changes: dict[str, str]) -> float:
    """`median_forward` in a new process with these environment variables."""
    command, folder = [sys.executable, "-c", FORWARD], os.path.dirname(os.path.abspath(__file__))
    ran = subprocess.run(command, cwd=folder, env=environment(changes), check=True, stdout=subprocess.PIPE, text=True)
    return float(ran.stdout)


@contextlib.contextmanager
def busy_processes(count: int, kind: str) -> Iterator[None]:
    """``count`` processes of this kind run while the block does."""
    command = [sys.executable, "-c", OTHERS[kind]]
    processes = [subprocess.Popen(command, env=environment({})) for _ in range(count)]
    try:
        if count:
            time.sleep(SECONDS_TO_START)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--others", choices=OTHERS, default="python", help="kind of the other processes")
    parser.add_argument("--counts", type=int, nargs="+", default=[0, 1, 2], help="numbers of other processes")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    seconds: dict[tuple[str, int], list[float]] = {(name, count): [] for name in SETTINGS for count in arguments.counts}
    for number in range(1, arguments.rounds + 1):
        for count in arguments.counts:
            with busy_processes(count, arguments.others):
                for name, changes in SETTINGS.items():
                    seconds[name, count].append(measured(changes))
                    print(f"round {number}, {count} others, {name}: {seconds[name, count][-1]:.3f} s", flush=True)

    from comparison import machine, print_table

    print(f"\n{machine()}; {os.cpu_count()} cores; seconds per forward on {THREADS} threads, beside N processes")
    rows = [
        [name, *(f"{statistics.median(seconds[name, count]):.3f}" for count in arguments.counts)] for name in SETTINGS
    ]
    print_table([f"setting, N of {arguments.others} =", *map(str, arguments.counts)], rows)


if __name__ == "__main__":
    main()
