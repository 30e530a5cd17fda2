"""The one seam between task kinds. Everything that differs between them stands behind ``Task``.

A kind is one module here with a class of this form, entered in ``KINDS``; nothing else names a kind.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from pipeline.tinybert.rows import Row, write_json
from pipeline.tinybert.settings import Source
from pipeline.tinybert.settings import Task as TaskSettings
from pipeline.tinybert.stage import UserError
from pipeline.tinybert.tasks.text_classification import TextClassification

KINDS = {"text_classification": TextClassification}


class Task(Protocol):
    kind: str
    metrics: tuple[str, ...]
    labels: list[str]
    metric: str
    max_length: int

    @classmethod
    def read(cls, records: Iterable[tuple[str, dict]], source: Source, key: str) -> list[Row]:
        """Records as checked rows, each with the ``where`` it came from; UserError names the bad ones."""

    def encode(self, rows: Iterable[Row], tokenizer) -> dict[str, list]:
        """Columns of model inputs, cut at ``max_length``, saying how many; with ``labels`` where the rows have one."""

    def replaceable(self, row: Row) -> dict[str, list[tuple[int, int]]]:
        """Field → the spans of its text in which words may be replaced."""

    def replaced(self, row: Row, field: str, text: str) -> Row:
        """A valid copy of ``row`` in which ``field`` now reads ``text``."""

    def load_model(self, folder: str | Path, seed: int = 0) -> torch.nn.Module:
        """The model of ``folder`` with this task's head (drawn by ``seed`` where the folder has none)."""

    def class_logits(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A model's logits of B rows as rows of class logits ``(N, C)`` and a mask ``(N,)`` of those that count."""

    def predictions(self, logits: np.ndarray) -> list[str]:
        """Logits as label names."""

    def score(self, rows: list[Row], predictions: list[str]) -> dict[str, float]:
        """Every metric of the kind, ``metric`` among them."""

    def trivial_predictions(self, train: list[Row], rows: list[Row]) -> list[str]:
        """What the trivial predictor says of ``rows``: the score that a teacher has to beat."""


def check_metric(settings: TaskSettings, key: str) -> None:
    metrics = KINDS[settings.kind].metrics
    if settings.metric not in metrics:
        raise UserError(f"{key}: expected one of {', '.join(metrics)} for {settings.kind}, found '{settings.metric}'")


def create(settings: TaskSettings, labels: list[str]) -> Task:
    return KINDS[settings.kind](labels, settings.metric, settings.max_length)


def save(task: Task, path: Path) -> None:
    """What the rows say of the task. The rest stays in its settings: a change there reruns only what reads it."""
    write_json(path, {"labels": task.labels})


def load(path: str | Path, settings: TaskSettings) -> Task:
    """The task as ``save`` left it, with its settings."""
    return create(settings, **json.loads(Path(path).read_text(encoding="utf-8")))
