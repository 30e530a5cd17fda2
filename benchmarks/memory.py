"""How memory and time grow with the rows: ``python benchmarks/memory.py`` runs stages over ever more of them.

Each stage runs as `dvc repro` would run it, with tiny models, over so many augmented rows (`augment`: over the training
rows that become as many at 20 variants each). Prints a table: time and peak memory of the process, and what each row
more has added to both since the fewest rows. ``--quick`` leaves the million out.
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
CHEAP = {
    "augment.variants": VARIANTS,
    "augment.batch_size": 512,
    "distill_intermediate.batch_size": 256,
    "distill_intermediate.max_rows": None,
    "distill_prediction.batch_size": 256,
    "distill_prediction.epochs": 1,
    "tasks.tiny.unlabelled": None,
}


def write_rows(folder: Path, count: int) -> None:
    """``count`` augmented rows, and the training rows that would become them, no two of the same text."""
    prepared, augmented = (folder / "data" / "tiny" / part for part in ("prepared", "augmented"))
    for path, rows in ((prepared / "train.jsonl", count // (VARIANTS + 1)), (augmented / "rows.jsonl", count)):
        texts = map(" ".join, itertools.product(tiny.WORDS, repeat=LENGTH))
        with open(path, "w", encoding="utf-8") as file:
            for number, text in enumerate(itertools.islice(texts, rows)):
                file.write(json.dumps({"text": text, "label": "positive", "id": f"train-{number}"}) + "\n")


def measured(folder: Path, stage: str, sizes: list[int]) -> list[list[str]]:
    """The table's rows of a stage. What a row more costs is told from the row of the fewest: so no start is in it."""
    table, fewest = [], None
    for count in sizes:
        write_rows(folder, count)
        seconds, peak = run_stage(folder, stage)
        print(f"{stage}: {count:,} rows in {seconds:.0f} s, {peak:.0f} MiB", flush=True)
        more = ["", ""]
        if fewest:
            added = count - fewest[0]
            more = [f"{(peak - fewest[2]) * (1 << 20) / added:.1f}", f"{1000 * (seconds - fewest[1]) / added:.2f}"]
        fewest = fewest or (count, seconds, peak)
        table.append([stage, f"{count:,}", f"{seconds:.0f}", f"{peak:.0f}", *more])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", help=f"in ascending order; {' '.join(map(str, ROWS))}")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--quick", action="store_true", help="a million less")
    arguments = parser.parse_args()
    sizes = arguments.rows or list(ROWS[:-1] if arguments.quick else ROWS)
    chosen = [stage for stage in STAGES if stage in arguments.stages]
    with tempfile.TemporaryDirectory() as folder:
        finished_world(Path(folder), **CHEAP)
        if "distill_prediction" in chosen and "distill_intermediate" not in chosen:  # whose logits it reads
            write_rows(Path(folder), sizes[-1])
            run_stage(Path(folder), "distill_intermediate")
        table = [row for stage in chosen for row in measured(Path(folder), stage, sizes)]
    print(f"\n{machine()}")
    print_table(
        ["stage", "augmented rows", "s", "peak memory, MiB", "bytes, each row more", "ms, each row more"], table
    )


if __name__ == "__main__":
    main()
