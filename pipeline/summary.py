"""Sum up all tasks in `run`: score, gain, retention, agreement, size and latency of each, and their means.

`package` writes the numbers of one task to `metrics/summary/<task>.json`. Tasks that are not in `run` are left out.
"""

from pathlib import Path

from pipeline.tinybert.core import settings, stage
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import log
from pipeline.tinybert.core.output import output, read_json, write_csv, write_json
from pipeline.tinybert.evaluation import summary

COLUMNS = ("score", "gain", "retention", "megabytes", "milliseconds")


def main() -> None:
    files = {name: Path("metrics", "summary", f"{name}.json") for name in settings.load().run}
    if missing := [name for name, file in files.items() if not file.exists()]:
        raise UserError(f"{files[missing[0]]} is not there: run `dvc repro package@{missing[0]}`, or `dvc repro`")
    tasks = {name: read_json(file) for name, file in files.items()}
    report = {"tasks": tasks, "mean": summary.mean(list(tasks.values()))}
    with output(Path("metrics", "summary.json")) as out:
        write_json(out, report)
    with output(Path("metrics", "summary.csv")) as out:
        records = ((name, measure, task[measure]) for name, task in tasks.items() for measure in COLUMNS)
        write_csv(out, ["task", "measure", "value"], (record for record in records if record[2] is not None))
    log(f"mean: {', '.join(f'{measure} {value}' for measure, value in report['mean'].items())}")


if __name__ == "__main__":
    stage.run(main)
