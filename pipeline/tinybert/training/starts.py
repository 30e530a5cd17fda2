"""Where a teacher starts: at the encoder, or after it has learned something that makes labels easier to learn."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.tinybert.training import contrast, similarity
from pipeline.tinybert.training.teacher_start import TeacherStart

if TYPE_CHECKING:
    from pipeline.tinybert.core.settings import FinetuneTeacher


@contextlib.contextmanager
def start(first: TeacherStart) -> Iterator[tuple[Path, FinetuneTeacher]]:
    """The folder in which the teacher starts, and the settings to train it with.

    Pairs start from the similarity of two texts, few texts with a class from `contrast`.
    """
    for method in (similarity, contrast):
        if method.wanted(first.task, first.train, first.settings):
            with method.start(first) as folder_and_settings:
                yield folder_and_settings
            return
    yield first.encoder, first.settings
