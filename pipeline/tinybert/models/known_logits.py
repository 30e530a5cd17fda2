"""What is known of a teacher that is no model: the class logits of some rows, by id or by text."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.tinybert.core.output import read_json, write_json
from pipeline.tinybert.data.rows import Row

if TYPE_CHECKING:
    from pipeline.tinybert.tasks import Task

FILE = "predictions.json"


@dataclass(frozen=True)
class _Read:
    """Rows that no tokenizer has read."""

    task: Task
    rows: list[Row]

    def predictions(self, logits: list[np.ndarray]) -> list:
        return self.task.predictions(logits, None, self.rows)


class KnownLogits:
    """``by_key``: key of a row → its class logits, (C,)."""

    def __init__(self, task: Task, logits: dict[str, np.ndarray] | None = None):
        self.task, self.by_key = task, logits or {}

    def key_of_id(self, name: str) -> str:
        return f"id {name}"

    def key_of_text(self, row: Row) -> str:
        """The key of a row by its texts."""
        return f"text {json.dumps(self.task.duplicate_key(row), ensure_ascii=False)}"

    def of(self, row: Row) -> np.ndarray | None:
        """A row's logits; a variant has those of its own text alone."""
        found = self.by_key.get(self.key_of_text(row))
        if found is None and not row.get("variant") and "id" in row:
            found = self.by_key.get(self.key_of_id(row["id"]))
        return found

    def of_all(self, rows: list[Row]) -> list[np.ndarray] | None:
        """The logits of all rows, (1, C) each; None if some are not known."""
        found = [self.of(row) for row in rows]
        known = [np.asarray(logits, dtype=np.float32)[None] for logits in found if logits is not None]
        return known if len(known) == len(rows) else None

    def logits(self, rows: list[Row], description: str = "") -> tuple[_Read, list[list[np.ndarray]]]:
        """As `ensembles.Ensemble.logits`: of one member, or of none if some rows are not known."""
        found = self.of_all(rows)
        return _Read(self.task, rows), [] if found is None else [found]

    def save(self, folder: Path) -> None:
        write_json(folder / FILE, {key: logits.tolist() for key, logits in self.by_key.items()})

    @classmethod
    def load(cls, task: Task, folder: Path) -> KnownLogits | None:
        """Those of the teacher in ``folder``; None if it is a model."""
        path = folder / FILE
        if not path.exists():
            return None
        return cls(task, {key: np.array(values) for key, values in read_json(path).items()})
