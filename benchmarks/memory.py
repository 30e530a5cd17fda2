"""How memory grows with the rows: ``python benchmarks/memory.py`` runs stages over ever more of them, with tiny models.

Each stage runs as `dvc repro` would run it, in a process of its own, over so many augmented rows (`augment`: over the
training rows that become as many at 20 variants each). Prints a table: peak memory of the process, what each row more
has added to it since the fewest rows, and time a row. ``--quick`` leaves the million out.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import tiny  # noqa: E402
from comparison import machine, print_table, run_stage  # noqa: E402

STAGES = ("augment", "distill_intermediate", "distill_prediction")
ROWS = (10_000, 100_000, 1_000_000)
VARIANTS = 20
CHEAP = {
    "augment.variants": VARIANTS,
    "augment.batch_size": 512,
    "distill_intermediate.batch_size": 256,
    "distill_intermediate.max_rows": None,
    "distill_prediction.batch_size": 256,
    "distill_prediction.epochs": 1,
    "tasks.tiny.unlabelled": None,
}


def small_world(folder: Path) -> None:
    """All stages once, so that each has what it reads."""
    shutil.copy(ROOT / "params.yaml", folder)
    tiny.write_world(folder, **CHEAP)
    for stage in (*tiny.COMMON, *tiny.PER_TASK):
        run_stage(folder, stage)


def write_rows(folder: Path, count: int) -> None:
    """``count`` augmented rows, the training rows that would become them, all of other texts than their neighbours."""
    texts = [text for text, _ in tiny.sentences(500, seed=2)]
    train, augmented = (folder / "data" / "tiny" / part for part in ("prepared/train.jsonl", "augmented/rows.jsonl"))
    for path, rows in ((train, count // (VARIANTS + 1)), (augmented, count)):
        with open(path, "w", encoding="utf-8") as file:
            for number in range(rows):
                row = {"text": texts[number % len(texts)], "label": "positive", "id": f"train-{number}"}
                file.write(json.dumps(row) + "\n")


def measured(folder: Path, stage: str, sizes: list[int]) -> list[list[str]]:
    """The table's rows of a stage."""
    table, fewest = [], None
    for count in sizes:
        write_rows(folder, count)
        seconds, peak = run_stage(folder, stage)
        fewest = fewest or (count, peak)
        more = f"{(peak - fewest[1]) * (1 << 20) / (count - fewest[0]):.1f}" if count > fewest[0] else ""
        table.append([stage, f"{count:,}", f"{peak:.0f}", more, f"{1000 * seconds / count:.2f}"])
        print(f"{stage}: {count:,} rows in {seconds:.0f} s, {peak:.0f} MiB", flush=True)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", help=f"in ascending order; {' '.join(map(str, ROWS))}")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--quick", action="store_true", help="a million less")
    arguments = parser.parse_args()
    sizes = arguments.rows or list(ROWS[:-1] if arguments.quick else ROWS)
    with tempfile.TemporaryDirectory() as folder:
        small_world(Path(folder))
        table = [row for stage in arguments.stages for row in measured(Path(folder), stage, sizes)]
    print(f"\n{machine()}")
    print_table(["stage", "augmented rows", "peak memory, MiB", "bytes for each row more", "ms a row"], table)


if __name__ == "__main__":
    main()
