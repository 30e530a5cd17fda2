"""Read and validate a task's source and its unlabelled text, drop duplicates, split the rows, collect the labels.

Writes `data/<task>/prepared` (`train.jsonl`, `validation.jsonl`, `test.jsonl`, one file per entry of `more_tests` and
`submissions`, and `task.json`) and `data/<task>/unlabelled/rows.jsonl`.

Also writes `data/<task>/own_teacher.json`: a hash of each file of the user's own teacher. `finetune_teacher` depends on
it instead of all files of the task.

With `--check`, it logs statistics of the data and what the stages will cost (as cost.py does), and writes nothing.
"""

import importlib
from pathlib import Path

from pipeline.tinybert import tasks
from pipeline.tinybert.core import settings, stage
from pipeline.tinybert.core.log import log
from pipeline.tinybert.core.output import output, write_json
from pipeline.tinybert.data import drawn_splits, lengths, locations, near_duplicates, rows, splits
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.tasks import Task

SENTENCES_CHECKED = 100_000  # of unlabelled text, by `--check`
# The settings.
ENCODER, TEACHER = "encoder.checkpoint", "finetune_teacher.checkpoint"


def main(name: str, check: bool = False) -> None:
    configuration = settings.load()
    if check:
        configuration = with_few_sentences(configuration, name)
    task, parts, submissions, unlabelled = read_rows(configuration, name)
    if check:
        encoder = locations.checkpoint_folder(configuration.encoder.checkpoint, ENCODER)
        tokenizer = checkpoints.user_tokenizer(encoder, ENCODER)
        teacher = configuration.quietly("finetune_teacher", name).checkpoint
        if teacher and not teacher.startswith("hub:"):
            folder = locations.checkpoint_folder(teacher, TEACHER, locations.own_teacher_folder(name))
            checkpoints.user_tokenizer(folder, TEACHER)
        lengths.log_lengths(task, {**parts, **submissions, "unlabelled": unlabelled}, tokenizer)
        # Imported by name: it uses code of other stages, on which the files that this stage writes do not depend.
        sketch = importlib.import_module("pipeline.tinybert.cost.sketch")
        sketch.Sketch(configuration, name, task, parts, unlabelled, encoder).log()
        return
    with output(Path("data", name, "prepared")) as out:
        for file, part in {**parts, **submissions}.items():
            rows.write(out / f"{file}.jsonl", splits.without_internal_fields(part))
        tasks.save(task, out / "task.json")
    with output(Path("data", name, "unlabelled")) as out:
        rows.write(out / "rows.jsonl", unlabelled)
    with output(Path("data", name, "own_teacher.json")) as out:
        write_json(out, locations.file_hashes(locations.own_teacher_folder(name)))


def with_few_sentences(configuration: settings.Settings, name: str) -> settings.Settings:
    """The settings for a check: at most ``SENTENCES_CHECKED`` unlabelled sentences. To cut 10,000 takes a second."""
    task = configuration.task(name)
    source = task.unlabelled
    if source is None or not source.sentences or source.limit <= SENTENCES_CHECKED:
        return configuration
    log(
        f"tasks.{name}.unlabelled: at most {SENTENCES_CHECKED} sentences are checked. If there are more, the stages"
        " take longer than estimated here"
    )
    few = task.model_copy(update={"unlabelled": source.model_copy(update={"limit": SENTENCES_CHECKED})})
    return configuration.model_copy(update={"tasks": {**configuration.tasks, name: few}})


def read_rows(configuration: settings.Settings, name: str) -> tuple[Task, splits.Parts, splits.Parts, list[Row]]:
    """A task with its labels, its rows by split, the splits without labels, and the unlabelled rows.

    Logs statistics. Raises UserError if a row is invalid.
    """
    task_settings, prepare = configuration.task(name), configuration.prepare
    locations.check_task_folder(name)
    task = tasks.create(task_settings, name)

    key = f"tasks.{name}.source"
    source = splits.read(task, task_settings.source, key)
    for split, part in {**source.parts, **source.more_tests, **source.submissions}.items():
        log(f"{split}: {len(part)} rows read")
    parts = splits.drop_duplicates(task, source.parts, source.more_tests)
    splits.log_shared_groups(task, {**parts, **source.more_tests})
    drawn = drawn_splits.missing(parts)
    parts = drawn_splits.split_off_missing(task, parts, prepare.test, prepare.validation, prepare.seed, key)
    parts = drawn_splits.cover_labels(task, {**parts, **source.more_tests}, drawn, key)
    parts = splits.check_labels(task, parts, task_settings.source, key)
    task.labels = task.label_names(parts["train"], task_settings.source, key)
    splits.check_variety(task, parts, drawn, key)
    for test in ("test", *source.more_tests):
        near_duplicates.log_near_duplicates(task, test, parts[test], parts["train"])
    if configuration.teacher_may_know_test(name):
        log(
            f"test: DOUBTFUL: {TEACHER} is your own teacher, and test is drawn from the rows of the source. If it was"
            " trained on these rows, its scores and its student's mean nothing. Name rows that it has not seen:"
            f" {key}.splits: {{train: …, test: …}}"
        )
    key, text = configuration.unlabelled(name, task.reads_texts)
    unlabelled = splits.read_unlabelled(task, task_settings.source, text, parts, prepare.seed, key)
    for split, part in parts.items():
        log(f"{split}: {len(part)} rows: {task.summary(part)}")
    log(f"unlabelled: {len(unlabelled)} rows")
    if text and task_settings.unlabelled is None:
        log(
            f"unlabelled: general texts ({key}, {text.location}): texts like the task's are better. If the language is"
            " another one, change them or set augment.general_texts: 0"
        )
    return task, parts, source.submissions, unlabelled


if __name__ == "__main__":
    stage.run(main, "task", flags=("check",))
