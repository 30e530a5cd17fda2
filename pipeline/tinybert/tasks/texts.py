"""The base class of kinds that make one prediction for a text or a pair of texts."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pipeline.tinybert.core.settings import Source, Table
from pipeline.tinybert.data import words
from pipeline.tinybert.data.cells import BadRecordError, text_of
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.models import piece_spans
from pipeline.tinybert.tasks.task import Edit, Span, Task, splice

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FIELDS = ("text", "pair")
ROUNDING = 0.01  # probabilities may sum to this much more or less than 1
SMALLEST_PROBABILITY = 1e-6


def check_probabilities(classes: list[str], numbers: np.ndarray) -> None:
    """Raise BadRecordError, which names the class, unless all numbers (C,) are between 0 and 1."""
    for name, number in zip(classes, numbers, strict=True):
        if not 0 <= number <= 1:
            raise BadRecordError(f"'{name}': the probability {number:g} is not between 0 and 1")


class Texts(Task):
    """A row has ``text``, perhaps ``pair`` (the second text), and ``label`` if it is labelled."""

    columns: ClassVar = {"text": "text", "pair": None, "label": "label"}
    target_fields: ClassVar = ("label",)
    head_name: ClassVar = "AutoModelForSequenceClassification"
    pipeline_tag: ClassVar = "text-classification"
    uses_first_position_only: ClassVar = True
    problem_type: ClassVar[str]  # selects the loss of the transformers model

    @abstractmethod
    def label(self, record: dict, source: Source) -> Any:
        """The label of a record. Raises BadRecordError if it is missing or invalid."""

    @abstractmethod
    def target(self, row: Row) -> Any:
        """A row's label in the form that the model's loss expects."""

    def parse_record(self, record: dict, source: Table, labelled: bool) -> Row:
        row = {"text": text_of(record, source.text or self.columns["text"])}
        if source.pair is not None:
            row["pair"] = text_of(record, source.pair)
        if labelled:
            assert isinstance(source, Source)
            row["label"] = self.label(record, source)
        return row

    def duplicate_key(self, row: Row) -> Any:
        return (row["text"], row["pair"]) if "pair" in row else row["text"]

    def encode(self, rows: list[Row], tokenizer, with_spans: bool = False) -> dict[str, list]:
        from pipeline.tinybert.models import checkpoints

        longest = min(self.max_length, tokenizer.model_max_length)
        texts = [[row[field] for row in rows] for field in FIELDS if rows and field in rows[0]]
        encoded = tokenizer(*(texts or [[]]), truncation=True, max_length=longest)
        places = [piece_spans.spans(encoded, number) for number in range(len(rows))] if with_spans else []
        checkpoints.log_truncated(encoded, longest)
        columns = {**encoded, "label_mask": [[True]] * len(rows), "example": list(range(len(rows)))}
        if with_spans:
            columns["piece_spans"] = places
        if rows and all("label" in row for row in rows):
            columns["labels"] = [self.target(row) for row in rows]
        return columns

    def logits_of_probabilities(self, numbers: np.ndarray) -> np.ndarray:
        """Class logits (C,) with these probabilities (C,). Raises BadRecordError if they cannot be probabilities."""
        check_probabilities(self.labels, numbers)
        if abs(numbers.sum() - 1) > ROUNDING:
            raise BadRecordError(f"the probabilities sum to {numbers.sum():.4g}, expected 1")
        return np.log(numbers.clip(min=SMALLEST_PROBABILITY))

    def length(self, row: Row) -> int:
        return sum(words.count(row[field]) for field in FIELDS if field in row)

    def load_model(self, folder: str | Path, seed: int = 0) -> PreTrainedModel:
        from pipeline.tinybert.models import checkpoints, families

        model, report = checkpoints.load_and_report(self.head, folder, seed=seed, **self.head_options())
        # What is missing is of the head: the body has all. The encoder of a model of texts (`similarity`) may have a
        # layer before tanh, which has learned to read states.
        if missing := report["missing_keys"]:
            families.read_states_directly(model, missing if checkpoints.problem_type(folder) else None)
        return model

    def head_options(self) -> dict[str, Any]:
        return {**super().head_options(), "problem_type": self.problem_type}

    def replaceable_spans(self, row: Row) -> dict[str, tuple[str, list[Span]]]:
        return {field: (row[field], [(0, len(row[field]))]) for field in FIELDS if field in row}

    def is_pair(self, row: Row) -> bool:
        return "pair" in row

    def new_pair(self, one: Row, other: Row) -> Row | None:
        """If both rows have the same original: the text that differs, in both forms. Otherwise: the first text of one
        row and the second text of the other.
        """
        if one["id"] != other["id"]:
            return {"text": one["text"], "pair": other["pair"]}
        differ = [field for field in FIELDS if one[field] != other[field]]
        return {"text": one[differ[0]], "pair": other[differ[0]]} if differ else None

    def apply_edits(self, row: Row, field: str, edits: list[Edit]) -> Row:
        return {**row, field: splice(row[field], edits)}
