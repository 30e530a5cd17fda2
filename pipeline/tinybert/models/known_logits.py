"""The class logits of some rows, by their texts: a teacher that is a file of predictions instead of a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.tinybert.core.output import read_json, write_json
from pipeline.tinybert.data.rows import Row

if TYPE_CHECKING:
    from pipeline.tinybert.tasks import Task

FILE = "predictions.json"


class KnownLogits:
    """``by_key``: key of a row → its class logits, (C,)."""

    def __init__(self, task: Task, logits: dict[str, np.ndarray] | None = None):
        self.task, self.by_key = task, logits or {}

    def key_of_text(self, row: Row) -> str:
        """The key of all rows with these texts."""
        return f"text {json.dumps(self.task.duplicate_key(row), ensure_ascii=False)}"

    def key_of_row(self, row: Row) -> str:
        """The key of one of several rows with the same texts. An id alone would be another row's in other data."""
        return f"id {row['id']}, {self.key_of_text(row)}"

    def keys(self, row: Row) -> list[str]:
        """The keys of a row, the most specific one first. A variant has its original's id, so only its texts count."""
        of_row = [self.key_of_row(row)] if "id" in row and not row.get("variant") else []
        return [*of_row, self.key_of_text(row)]

    def of(self, row: Row) -> np.ndarray | None:
        """A row's logits; None if they are not known."""
        return next((self.by_key[key] for key in self.keys(row) if key in self.by_key), None)

    def of_all(self, rows: list[Row]) -> list[np.ndarray] | None:
        """The logits of all rows, (1, C) each; None if some are not known."""
        found = [self.of(row) for row in rows]
        known = [np.asarray(logits, dtype=np.float32)[None] for logits in found if logits is not None]
        return known if len(known) == len(rows) else None

    def save(self, folder: Path) -> None:
        write_json(folder / FILE, {key: logits.tolist() for key, logits in self.by_key.items()})

    @classmethod
    def load(cls, task: Task, folder: Path) -> KnownLogits | None:
        """The file of predictions in ``folder``; None if a model is there."""
        path = folder / FILE
        if not path.exists():
            return None
        return cls(task, {key: np.array(values) for key, values in read_json(path).items()})
