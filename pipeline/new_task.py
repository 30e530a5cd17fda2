"""Write a task's entry into params.yaml: ``python -m pipeline.new_task films --file reviews.csv``.

The kind, the columns and the labels are guessed from the file. Each guess is printed with its reason, and an option
overrides it. Files are copied to data/raw/<task>. If a row or an option is wrong, nothing is written. Not a stage.
"""

import argparse
from pathlib import Path

from pipeline import prepare
from pipeline.tinybert import tasks
from pipeline.tinybert.core import settings, stage
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import log
from pipeline.tinybert.core.output import output
from pipeline.tinybert.core.settings import PARAMS
from pipeline.tinybert.guessing import entry, files


def main() -> None:
    given = arguments()
    name = given.name
    settings.check_task_name(name, name)
    configuration = settings.load()
    if name in configuration.tasks and not given.replace:
        raise UserError(f"{name}: params.yaml has this task already: choose another name, or give --replace")
    values, reasons = entry.guess(given, configuration)
    for reason in reasons:
        log(f"{reason.key}: {reason.text}")
    given_files = [file for file in (given.train, given.validation, given.test, given.unlabelled) if file]
    with files.copied_or_rolled_back(name, given_files):
        text = PARAMS.read_bytes().decode("utf-8")
        text = entry.with_entry(entry.without_entry(text, name) if name in configuration.tasks else text, name, values)
        with output(PARAMS) as out:
            out.write_bytes((entry.with_run(text, name) if given.run else text).encode("utf-8"))
        prepare.load_rows(settings.load(), name)
    log(f"params.yaml: tasks.{name} is written. Next:")
    log(f"  python -m pipeline.prepare {name} --check")
    log("  dvc repro" if given.run else f"  set `run: [{name}]` in params.yaml, then `dvc repro`")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipeline.new_task", description=__doc__)
    parser.add_argument("name", help="the name of the task")
    parser.add_argument("--kind", choices=tasks.KINDS, help="guessed if left out")
    parser.add_argument(
        "--file", dest="train", type=Path, required=True, metavar="FILE", help="rows to train on, or all"
    )
    for split in ("validation", "test"):
        parser.add_argument(f"--{split}", type=Path, metavar="FILE", help="if left out, rows are split off --file")
    parser.add_argument("--unlabelled", type=Path, metavar="FILE", help="further texts, without labels")
    for column in entry.COLUMNS:
        several = column in ("label", "text", "pair", "question")
        parser.add_argument(f"--{column}", metavar="COLUMN", nargs="+" if several else None)
    parser.add_argument("--scheme", choices=["IOB2", "IOB1", "BIOES"], help="of the tags")
    parser.add_argument("--separator", help="between the labels in a column")
    parser.add_argument("--bad-rows", choices=["drop"], help="leave out invalid rows instead of stopping")
    parser.add_argument("--delimiter", type=delimiter, help="between the columns of the file: a character, or tab")
    parser.add_argument("--metric", help="the score that selects models")
    parser.add_argument("--max-length", type=int, metavar="N", help="in word pieces")
    parser.add_argument("--replace", action="store_true", help="write the entry of this name anew")
    parser.add_argument("--run", action="store_true", help="make this the only task that `dvc repro` runs")
    return parser.parse_args()


def delimiter(text: str) -> str:
    r"""One character; also ``\t`` and ``tab``, which are easier to type than a tab."""
    character = "\t" if text in ("\\t", "tab") else text
    if len(character) != 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected one character, or tab")
    return character


if __name__ == "__main__":
    stage.imports_are_done()
    main()
