"""What `prepare` would make of a task's source, told without making it."""

import copy

import numpy as np

from pipeline.tinybert import splits
from pipeline.tinybert.rows import Row
from pipeline.tinybert.settings import Prepare, Source
from pipeline.tinybert.stage import UserError, say
from pipeline.tinybert.tasks import Task

ANY_LENGTH = 1_000_000


def report(task: Task, source: Source, prepare: Prepare, tokenizer, key: str) -> None:
    """Print rows by split with their labels, duplicates, overlaps, lengths in word-pieces and how many would be cut.

    Raises UserError after it has told of all splits, where one has bad rows.
    """
    parts, wrong = {}, []
    for split in splits.names(task, source, key):
        try:
            parts[split] = splits.read_split(task, source, split, key)
            say(f"{split}: {len(parts[split])} rows: {task.described(parts[split])}")
        except UserError as error:
            wrong.append(f"{split}: {error}")
    if wrong:
        raise UserError("; ".join(wrong))
    more_tests = splits.more_tests(task, source, key)
    parts = splits.without_duplicates(task, parts, more_tests)
    parts = splits.complete(task, parts, prepare.test, prepare.validation, prepare.seed, key)
    splits.check_labels(task, parts | more_tests, key)
    task.labels = task.label_names(parts["train"], source, key)
    say(f"labels: {', '.join(task.labels)}" if task.labels else "labels: none")
    for split, rows in (parts | more_tests).items():
        say(f"{split} as it would be: {len(rows)} rows: {task.described(rows)}")
        say(f"{split}: {lengths(task, rows, tokenizer)}")


def lengths(task: Task, rows: list[Row], tokenizer) -> str:
    """How long the rows are as the model would read them, were there no limit."""
    unlimited, boundless = copy.copy(task), copy.deepcopy(tokenizer)
    unlimited.max_length = boundless.model_max_length = ANY_LENGTH
    found = np.array([len(ids) for ids in unlimited.encode(rows, boundless)["input_ids"]])
    longest = min(task.max_length, tokenizer.model_max_length)
    return (
        f"{np.median(found):.0f} word-pieces in the median, 95 % have {np.percentile(found, 95):.0f} or less, the"
        f" longest {found.max()}; {int((found > longest).sum())} of {len(found)} are longer than max_length, {longest}"
    )
