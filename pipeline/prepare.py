"""Read a task's source and its unlabelled text, check them, drop duplicates, split, name the labels.

With `--check` it tells what it finds, and writes nothing.

`data/<task>/prepared` holds `train.jsonl`, `validation.jsonl`, `test.jsonl`, further tests and splits for submission by
their names, and `task.json`; `data/<task>/unlabelled` holds `rows.jsonl`.
"""

from pathlib import Path

from pipeline.tinybert import tasks
from pipeline.tinybert.core import settings, stage
from pipeline.tinybert.core.log import log
from pipeline.tinybert.core.output import output
from pipeline.tinybert.data import lengths as checking
from pipeline.tinybert.data import rows, sources, splits
from pipeline.tinybert.models import checkpoints


def main(name: str, check: bool = False) -> None:
    configuration = settings.load()
    wanted, prepare = configuration.task(name), configuration.prepare
    task = tasks.create(wanted, name)

    source = f"tasks.{name}.source"
    read = splits.read(task, wanted.source, source)
    for split, part in {**read.parts, **read.more_tests, **read.submissions}.items():
        log(f"{split}: {len(part)} rows read")
    parts = splits.without_duplicates(task, read.parts, read.more_tests)
    splits.say_shared_groups(task, {**parts, **read.more_tests})
    parts = splits.complete(task, parts, prepare.test, prepare.validation, prepare.seed, source)
    parts |= read.more_tests
    splits.check_labels(task, parts, wanted.source, source)
    task.labels = task.label_names(parts["train"], wanted.source, source)
    unlabelled = splits.unlabelled(task, wanted, parts, prepare.seed, f"tasks.{name}.unlabelled")
    for split, part in parts.items():
        log(f"{split}: {len(part)} rows: {task.described(part)}")
    log(f"unlabelled: {len(unlabelled)} rows")

    if check:
        encoder = sources.checkpoint_folder(configuration.encoder.checkpoint, "encoder.checkpoint")
        tokenizer = checkpoints.tokenizer(encoder, "encoder.checkpoint")
        checking.say_lengths(task, {**parts, **read.submissions, "unlabelled": unlabelled}, tokenizer)
        return
    with output(Path("data", name, "prepared")) as out:
        for file, part in {**parts, **read.submissions}.items():
            rows.write(out / f"{file}.jsonl", splits.as_written(part))
        tasks.save(task, out / "task.json")
    with output(Path("data", name, "unlabelled")) as out:
        rows.write(out / "rows.jsonl", unlabelled)


if __name__ == "__main__":
    stage.run(main, "task", flags=("check",))
