"""Read a task's source and its unlabelled text, check them, drop duplicates, split, name the labels.

`data/<task>/prepared` holds `train.jsonl`, `validation.jsonl`, `test.jsonl` and `task.json`; `data/<task>/unlabelled`
holds `rows.jsonl`.
"""

from pathlib import Path

from pipeline.tinybert import rows, settings, sources, splits, stage, tasks


def main(name: str) -> None:
    configuration = settings.load()
    task, prepare = configuration.task(name), configuration.prepare

    source = f"tasks.{name}.source"
    parts = splits.read(task, source)
    parts = splits.without_duplicates(parts)
    parts = splits.complete(parts, prepare.test, prepare.validation, prepare.seed, source)
    tasks.check_metric(task, f"tasks.{name}.metric")
    described = tasks.create(task, splits.label_names(parts, task.source, source))

    unlabelled = []
    if task.unlabelled:
        texts = sources.texts(task.unlabelled, prepare.seed, f"tasks.{name}.unlabelled")
        unlabelled = splits.unlabelled_rows(texts, parts)

    with stage.output(Path("data", name, "prepared")) as out:
        for split, part in parts.items():
            rows.write(out / f"{split}.jsonl", part)
            stage.say(f"{split}: {len(part)} rows {splits.label_counts(part)}")
        tasks.save(described, out / "task.json")
    with stage.output(Path("data", name, "unlabelled")) as out:
        rows.write(out / "rows.jsonl", unlabelled)
        stage.say(f"unlabelled: {len(unlabelled)} rows")


if __name__ == "__main__":
    stage.run(main, "task")
