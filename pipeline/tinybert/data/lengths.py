"""How long rows are as the model would read them: what `prepare --check` tells beside what `prepare` does."""

import copy

import numpy as np

from pipeline.tinybert.core.log import log
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.tasks import Task

ANY_LENGTH = 1_000_000


def say_lengths(task: Task, parts: dict[str, list[Row]], tokenizer) -> None:
    """Say how long the rows of each part are in word-pieces, were there no limit, and how many would be cut."""
    unlimited, boundless = copy.copy(task), copy.deepcopy(tokenizer)
    unlimited.max_length = boundless.model_max_length = ANY_LENGTH
    longest = min(task.max_length, tokenizer.model_max_length)
    if longest < task.max_length:
        log(f"max_length: {task.max_length}: the model takes {longest} word-pieces: set the task's to that or less")
    for name, rows in parts.items():
        if rows:
            found = np.array([len(ids) for ids in unlimited.encode(rows, boundless)["input_ids"]])
            log(
                f"{name}: {np.median(found):.0f} word-pieces in the median, 95 % have {np.percentile(found, 95):.0f} or"
                f" less, the longest {found.max()}; {int((found > longest).sum())} of {len(found)} are longer than"
                f" max_length, {longest}"
            )
