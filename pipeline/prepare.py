"""Read and validate a task's source and its unlabelled text, drop duplicates, split the rows, collect the labels.

Writes `data/<task>/prepared` (`train.jsonl`, `validation.jsonl`, `test.jsonl`, one file per entry of `more_tests` and
`submissions`, and `task.json`) and `data/<task>/unlabelled/rows.jsonl`.

Also writes `data/<task>/own_teacher.json`: a hash of each file of the user's own teacher. `finetune_teacher` depends on
it instead of all files of the task. And `data/<task>/narrowing.jsonl`: rows of train on which `general_student` chooses
the neurons of narrow layers. The file is empty unless the student starts from layers: new rows must not repeat general
distillation.

With `--check`, it logs statistics of the data and what the stages will cost (as cost.py does), checks the user's own
teacher, and writes nothing.
"""

import importlib
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.tinybert import tasks
from pipeline.tinybert.core import settings, stage
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import log
from pipeline.tinybert.core.output import output, write_json
from pipeline.tinybert.data import locations, rows, sources
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.preparation import drawn_splits, lengths, near_duplicates, splits
from pipeline.tinybert.tasks import Task

SENTENCES_CHECKED = 100_000  # of unlabelled text, by `--check`
SMALL_TEST = 200  # rows
ROWS_FOR_NARROWING = 512
ENCODER, TEACHER = "encoder.checkpoint", "finetune_teacher.checkpoint"  # the settings


class TaskRows(NamedTuple):
    """A task with its labels, and its rows. ``parts``: the splits with labels; ``submissions``: those without."""

    task: Task
    parts: splits.Parts
    submissions: splits.Parts
    unlabelled: list[Row]


def main(name: str, check: bool = False) -> None:
    configuration = settings.load()
    if check:
        configuration = with_few_sentences(configuration, name)
    task, parts, submissions, unlabelled = load_rows(configuration, name)
    if check:
        encoder = locations.checkpoint_folder(configuration.encoder.checkpoint, ENCODER)
        tokenizer = checkpoints.encoder_tokenizer(encoder, ENCODER)
        all_parts = {**parts, **submissions, "unlabelled": unlabelled}
        known = open_own_teacher(configuration, name, task, all_parts)
        lengths.log_lengths(task, all_parts, tokenizer)
        sketch = import_undeclared("cost.sketch")
        sketch.Sketch(configuration, name, task, parts, unlabelled, encoder, known).log()
        return
    with output(Path("data", name, "prepared")) as out:
        for file, part in {**parts, **submissions}.items():
            rows.write(out / f"{file}.jsonl", splits.without_internal_fields(part))
        tasks.save(task, out / "task.json")
    with output(Path("data", name, "unlabelled")) as out:
        rows.write(out / "rows.jsonl", unlabelled)
    with output(Path("data", name, "own_teacher.json")) as out:
        write_json(out, locations.file_hashes(locations.own_teacher_folder(name)))
    with output(Path("data", name, "narrowing.jsonl")) as out:
        sample = rows_for_narrowing(configuration, name, parts["train"])
        rows.write(out, splits.without_internal_fields(sample))


def rows_for_narrowing(configuration: settings.Settings, name: str, train: list[Row]) -> list[Row]:
    """Rows of ``train``, drawn at random; none unless the student starts from layers."""
    if configuration.quietly("general_student", name).start != "layers":
        return []
    order = np.random.default_rng(configuration.prepare.seed).permutation(len(train))[:ROWS_FOR_NARROWING]
    return [train[number] for number in order]


def import_undeclared(module: str) -> Any:
    """A module that is no DVC dependency of this stage: it cannot change the files that the stage writes."""
    return importlib.import_module(f"pipeline.tinybert.{module}")


def open_own_teacher(configuration: settings.Settings, name: str, task: Task, parts: splits.Parts) -> Any:
    """Open the user's own teacher as `finetune_teacher` does. Raises the same UserErrors.

    Returns the predictions of a file (KnownLogits); None if the teacher is a model. A checkpoint on the hub is not
    downloaded.
    """
    recipe, within = configuration.quietly("finetune_teacher", name), locations.own_teacher_folder(name)
    if recipe.predictions:
        return import_undeclared("training.predictions").read(task, recipe.predictions, within, parts)
    own_teacher = import_undeclared("training.own_teacher")
    for checkpoint in recipe.checkpoints:
        if not checkpoint.startswith("hub:"):
            own_teacher.load(task, checkpoint, within)
    for encoder in recipe.encoders:
        own_teacher.encoder(encoder)
    return None


def with_few_sentences(configuration: settings.Settings, name: str) -> settings.Settings:
    """The settings for a check: at most ``SENTENCES_CHECKED`` unlabelled sentences. 10,000 take a second to split."""
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


def load_rows(configuration: settings.Settings, name: str) -> TaskRows:
    """Read, split and check the rows of a task. Logs statistics. Raises UserError if a row is invalid."""
    source, seed = configuration.task(name).source, configuration.prepare.seed
    source_key = f"tasks.{name}.source"
    locations.check_task_folder(name)
    task = tasks.create(configuration.task(name), name)
    found, parts, drawn = read_and_split(task, source, configuration.prepare, source_key)
    parts = check_and_set_labels(task, parts, drawn, source, source_key)
    log_texts_shared_with_train(task, parts, ["test", *found.more_tests])
    check_teacher_has_not_seen_test(configuration, name, drawn, source_key)
    unlabelled_key, text = sources.unlabelled(configuration, name, task.reads_texts)
    unlabelled = splits.read_unlabelled(task, source, text, parts, seed, unlabelled_key)
    log_summary(task, parts, unlabelled)
    log_further_texts(configuration, name, text, unlabelled_key)
    return TaskRows(task, parts, found.submissions, unlabelled)


def read_and_split(
    task: Task, source: settings.Source, prepare: settings.Prepare, key: str
) -> tuple[splits.SourceRows, splits.Parts, list[str]]:
    """Read the source, drop duplicates, and draw the missing splits from train.

    Returns the rows as read, the labelled splits, and the names of the drawn ones.
    """
    found = splits.read(task, source, key)
    for split, part in {**found.parts, **found.more_tests, **found.submissions}.items():
        log(f"{split}: {len(part)} rows read")
    parts = splits.drop_duplicates(task, found.parts, found.more_tests)
    splits.log_shared_groups(task, {**parts, **found.more_tests})
    drawn = drawn_splits.missing(parts)
    parts = drawn_splits.split_off_missing(task, parts, prepare.test, prepare.validation, prepare.seed, key)
    return found, drawn_splits.cover_labels(task, {**parts, **found.more_tests}, drawn, key), drawn


def check_and_set_labels(
    task: Task, parts: splits.Parts, drawn: list[str], source: settings.Source, key: str
) -> splits.Parts:
    """The parts without the rows that `splits.check_labels` drops. The task gets the labels of train."""
    parts = splits.check_labels(task, parts, source, key)
    task.labels = task.label_names(parts["train"], source, key)
    splits.log_labels_written_differently(task.labels, key)
    splits.check_variety(task, parts, drawn, key)
    return parts


def log_texts_shared_with_train(task: Task, parts: splits.Parts, tests: list[str]) -> None:
    """Log which texts of the test sets are also in train, or nearly so."""
    for test in tests:
        near_duplicates.log_near_duplicates(task, test, parts[test], parts["train"])
        if task.is_pair(parts["train"][0]):
            near_duplicates.log_shared_texts(test, parts[test], parts["train"])


def check_teacher_has_not_seen_test(
    configuration: settings.Settings, name: str, drawn: list[str], source_key: str
) -> None:
    """Log a doubt, or raise UserError, if the teacher is the user's own and test is drawn from the source's rows."""
    if "test" not in drawn or not configuration.quietly("finetune_teacher", name).checkpoints:
        return
    split_column = configuration.task(name).source.split_column
    if split_column is not None:
        raise UserError(
            f"{TEACHER}: your own teacher may have been trained on the rows from which test would be drawn: give rows"
            f" that it has not seen the value test in the column '{split_column}'"
        )
    log(
        f"test: DOUBTFUL: {TEACHER} is your own teacher, and test is drawn from the rows of the source. If it was"
        " trained on these rows, its scores and its student's mean nothing. Name rows that it has not seen:"
        f" {source_key}.splits: {{train: …, test: …}}"
    )


def log_summary(task: Task, parts: splits.Parts, unlabelled: list[Row]) -> None:
    """Log the rows of each split and the unlabelled ones, and whether test is too small for precise scores."""
    for split, part in parts.items():
        log(f"{split}: {len(part)} rows: {task.summary(part)}")
    if len(parts["test"]) < SMALL_TEST:
        points = 100 * 2 * math.sqrt(0.8 * 0.2 / len(parts["test"]))
        log(
            f"test: {len(parts['test'])} rows are few: a score of 80 % has a 95 % interval of ±{points:.0f} points:"
            " name a test file with more if you can"
        )
    log(f"unlabelled: {len(unlabelled)} rows")


def log_further_texts(
    configuration: settings.Settings, name: str, text: settings.Text | None, unlabelled_key: str
) -> None:
    """Log what the student is trained on besides the task's own rows: new pairs, general texts."""
    task_settings = configuration.task(name)
    if (pairs := configuration.quietly("augment", name).new_pairs) and task_settings.source.pair is not None:
        log(f"new pairs: `augment` makes up to {pairs} from the texts of train (augment.new_pairs)")
    if text and task_settings.unlabelled is None:
        log(
            f"unlabelled: general texts ({unlabelled_key}, {text.location}): texts like the task's are better. For"
            f" another language, change {unlabelled_key}, or set augment.general_texts: 0"
        )


if __name__ == "__main__":
    stage.run(main, "task", flags=("check",))
