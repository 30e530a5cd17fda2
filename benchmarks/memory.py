"""Growth of memory and time with the number of rows: ``python benchmarks/memory.py``.

Each stage runs as `dvc repro` would run it, with tiny models, over growing numbers of augmented rows. (`augment` runs
over the training rows that give as many augmented rows, at 20 variants each.) The table shows time and peak memory of
the process, and how much each further row adds to both. ``--quick`` leaves out the million rows.
"""

import argparse
import itertools
import json
import tempfile
from pathlib import Path

from comparison import machine, print_table
from tiny_stages import finished_world, run_stage, tiny

STAGES = ("augment", "distill_intermediate", "distill_prediction")
ROWS = (10_000, 100_000, 1_000_000)
VARIANTS = 20
LENGTH = 10  # words
SETTINGS = {
    "augment.variants": VARIANTS,
    "augment.batch_size": 512,
    "distill_intermediate.batch_size": 256,
    "distill_intermediate.max_rows": None,
    "distill_prediction.batch_size": 256,
    "distill_prediction.epochs": 1,
    "tasks.tiny.unlabelled": None,
    "augment.general_texts": 0,
}


def write_rows(folder: Path, count: int) -> None:
    """Write ``count`` augmented rows, and the training rows that would give as many. All texts differ."""
    prepared, augmented = (folder / "data" / "tiny" / part for part in ("prepared", "augmented"))
    for path, rows in ((prepared / "train.jsonl", count // (VARIANTS + 1)), (augmented / "rows.jsonl", count)):
        texts = map(" ".join, itertools.product(tiny.WORDS, repeat=LENGTH))
        with open(path, "w", encoding="utf-8") as file:
            for number, text in enumerate(itertools.islice(texts, rows)):
                file.write(json.dumps({"text": text, "label": "positive", "id": f"train-{number}"}) + "\n")


def measured(folder: Path, stage: str, sizes: list[int]) -> list[list[str]]:
    """The table's rows of a stage. A further row's cost is the difference to the smallest size, without start-up."""
    table, smallest = [], None
    for count in sizes:
        write_rows(folder, count)
        if stage == "distill_prediction":
            run_stage(folder, "distill_intermediate")  # it writes the teacher's logits of these rows
        seconds, peak = run_stage(folder, stage)
        print(f"{stage}: {count:,} rows in {seconds:.0f} s, {peak:.0f} MiB", flush=True)
        per_row = ["", ""]
        if smallest:
            added = count - smallest[0]
            bytes_added, seconds_added = (peak - smallest[2]) * (1 << 20), seconds - smallest[1]
            per_row = [f"{bytes_added / added:.1f}", f"{1000 * seconds_added / added:.2f}"]
        smallest = smallest or (count, seconds, peak)
        table.append([stage, f"{count:,}", f"{seconds:.0f}", f"{peak:.0f}", *per_row])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", help=f"in ascending order (default: {' '.join(map(str, ROWS))})")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--quick", action="store_true", help="leave out the million rows")
    arguments = parser.parse_args()
    sizes = arguments.rows or list(ROWS[:-1] if arguments.quick else ROWS)
    chosen = [stage for stage in STAGES if stage in arguments.stages]
    with tempfile.TemporaryDirectory() as folder:
        finished_world(Path(folder), **SETTINGS)
        table = [row for stage in chosen for row in measured(Path(folder), stage, sizes)]
    print(f"\n{machine()}")
    print_table(
        ["stage", "augmented rows", "s", "peak memory, MiB", "bytes per further row", "ms per further row"], table
    )


if __name__ == "__main__":
    main()
