"""Where a teacher starts: at the encoder, or after it has learned something that makes labels easier to learn."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.training import contrast, similarity

if TYPE_CHECKING:
    from pipeline.tinybert.core.settings import FinetuneTeacher, Numerics
    from pipeline.tinybert.tasks import Task


@contextlib.contextmanager
def start(
    encoder: Path,
    tokenizer,
    task: Task,
    train: list[Row],
    settings: FinetuneTeacher,
    numerics: Numerics,
    name: str = "training",
) -> Iterator[tuple[Path, FinetuneTeacher]]:
    """The folder in which the teacher starts, and the settings to train it with.

    Pairs start from the similarity of two texts, few texts with a class from `contrast`. ``name``: of the training, for
    resuming.
    """
    if similarity.wanted(task, train, settings):
        with similarity.start(encoder, tokenizer, task, train, settings, numerics, name) as start_and_settings:
            yield start_and_settings
    elif contrast.wanted(task, train, settings):
        with contrast.start(encoder, tokenizer, task, train, settings, numerics, name) as folder:
            yield folder, settings
    else:
        yield encoder, settings
