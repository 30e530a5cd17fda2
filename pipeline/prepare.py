"""Read a task's source and its unlabelled text, check them, drop duplicates, split, name the labels.

With `--check` it tells what it finds, and writes nothing.

`data/<task>/prepared` holds `train.jsonl`, `validation.jsonl`, `test.jsonl`, further tests and splits for submission by
their names, and `task.json`; `data/<task>/unlabelled` holds `rows.jsonl`.
"""

from pathlib import Path

from pipeline.tinybert import check as checking
from pipeline.tinybert import models, rows, settings, sources, splits, stage, tasks


def main(name: str, check: bool = False) -> None:
    configuration = settings.load()
    wanted, prepare = configuration.task(name), configuration.prepare
    task = tasks.create(wanted, name)

    source = f"tasks.{name}.source"
    if check:
        encoder = sources.checkpoint_folder(configuration.encoder.checkpoint, "encoder.checkpoint")
        tokenizer = models.tokenizer(encoder, "encoder.checkpoint")
        checking.report(task, wanted.source, prepare, tokenizer, source)
        return

    parts = splits.read(task, wanted.source, source)
    more_tests, submissions = (read(task, wanted.source, source) for read in (splits.more_tests, splits.submissions))
    parts = splits.without_duplicates(task, parts, more_tests)
    parts = splits.complete(task, parts, prepare.test, prepare.validation, prepare.seed, source)
    parts |= more_tests
    splits.check_labels(task, parts, source)
    task.labels = task.label_names(parts["train"], wanted.source, source)
    unlabelled = splits.unlabelled(task, wanted, parts, prepare.seed, f"tasks.{name}.unlabelled")

    with stage.output(Path("data", name, "prepared")) as out:
        for split, part in parts.items():
            rows.write(out / f"{split}.jsonl", part)
            stage.say(f"{split}: {len(part)} rows: {task.described(part)}")
        for file, part in submissions.items():
            rows.write(out / f"{file}.jsonl", part)
        tasks.save(task, out / "task.json")
    with stage.output(Path("data", name, "unlabelled")) as out:
        rows.write(out / "rows.jsonl", unlabelled)
        stage.say(f"unlabelled: {len(unlabelled)} rows")


if __name__ == "__main__":
    stage.run(main, "task", flags=("check",))
