"""What a task kind has to answer, and what the kinds share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.settings import Group, Source, Table
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.models import checkpoints

Span = tuple[int, int]
Edit = tuple[int, int, str]  # from, to, what stands there afterwards


class Task(ABC):
    """A task of one kind, as its settings and, once rows have been read, its labels describe it.

    Outputs of all kinds reduce to rows of class logits, (B, P, C) for B sequences, of which a mask (B, P) keeps some:
    a sentence has one, a tagged sentence one a word, a question one a position of its passage.
    """

    metrics: ClassVar[tuple[str, ...]]
    columns: ClassVar[dict[str, str | None]]  # those read of a source, and the name each goes by (None: only if set)
    targets: ClassVar[tuple[str, ...]]  # those of them that unlabelled rows have not
    label_columns: ClassVar[bool] = False  # whether `label` may be several columns
    details: ClassVar[tuple[str, ...]] = ()  # further settings of a source that this kind reads
    head: ClassVar[type]  # the library's class of models with such a head
    pipeline_tag: ClassVar[str]  # what the hub calls the kind
    of_first_position: ClassVar[bool] = False  # whether the head reads the first position's state alone
    has_submissions: ClassVar[bool] = False  # whether a benchmark's server takes files of this kind's predictions
    says_probabilities: ClassVar[bool] = True  # whether `calibration` compares probabilities with what is right
    loss: ClassVar[str]  # the function of `losses` that compares class logits (B, P, C) with the teacher's
    Options: ClassVar[type[Group]] = Group

    def __init__(self, metric: str, max_length: int, options: Any, labels: Iterable[str] = ()):
        self.metric, self.max_length, self.options, self.labels = metric, max_length, options, list(labels)

    # Rows

    @abstractmethod
    def row(self, record: dict, source: Table, labelled: bool) -> Row:
        """A record, column → value, as a row; BadRecordError says what is wrong with it."""

    @abstractmethod
    def identity(self, row: Row) -> Any:
        """What two rows share that are the same but for their answer."""

    def stratum(self, row: Row) -> str | None:
        """What a split keeps in proportion; None where there is nothing."""
        return None

    def group(self, row: Row) -> str | None:
        """Rows of one group stay on one side of a split, unless the source names its own groups."""
        return None

    @abstractmethod
    def label_names(self, train: list[Row], source: Source, key: str) -> list[str]:
        """The labels in the order of the model's outputs, from the rows of train."""

    def labels_in(self, row: Row) -> list[str]:
        """The labels that a row has, each of which train must have too."""
        return []

    def described(self, rows: list[Row]) -> str:
        """What a reader wants to know of a split beside its size."""
        return ""

    # Models

    @abstractmethod
    def encode(self, rows: list[Row], tokenizer) -> dict[str, list]:
        """Columns of model inputs, one entry a sequence, and with them

        ``kept``: for each sequence, which of its rows of class logits count; ``example``: the number of the row that
        it came from; with the model's targets where the rows have labels. Cut at ``max_length``, saying how many.
        """

    def load_model(self, folder: str | Path, seed: int = 0) -> torch.nn.Module:
        """The model of ``folder`` with this task's head (drawn by ``seed`` where the folder has none)."""
        return checkpoints.load(self.head, folder, seed=seed, **self.head_options())

    def head_options(self) -> dict[str, Any]:
        """What the configuration of a model says of the task: the names of its labels."""
        names = dict(enumerate(self.labels))
        return {"id2label": names, "label2id": {name: index for index, name in names.items()}}

    def class_weights(self, rows: list[Row]) -> list[float]:
        """A weight for each class by which all count the same in the loss: scikit-learn's "balanced"."""
        raise UserError("finetune_teacher.class_weights: this kind of task has no classes to weigh: set it to false")

    def label_loss(self, outputs, inputs: dict[str, Tensor]) -> Tensor:
        """Of a batch with labels, a mean: the library's own."""
        return outputs["loss"]

    def compared(self, kept: Tensor) -> Tensor:
        """How many of a batch's distributions ``loss`` is the mean of, where the mask (B, P) keeps rows."""
        return kept.sum()

    def class_logits(self, outputs) -> Tensor:
        """A model's outputs as (B, P, C)."""
        return outputs.logits.unsqueeze(1)

    @property
    def classes(self) -> int:
        """C."""
        return len(self.labels)

    # Predictions

    @abstractmethod
    def predictions(self, logits: list[np.ndarray], data, rows: list[Row]) -> list:
        """One answer for each row from the kept class logits, (kept, C), of each sequence of ``data``."""

    @property
    def needs_threshold(self) -> bool:
        """Whether answers are separated from none by a threshold, which is chosen on validation."""
        return False

    def threshold(self, rows: list[Row], predictions: list) -> float | None:
        """The threshold that is the best for these rows; None for kinds that need none."""
        return None

    def decided(self, predictions: list, threshold: float | None) -> list:
        """The predictions after the threshold."""
        return predictions

    def answer(self, row: Row, prediction: Any, logits: list[np.ndarray]) -> dict[str, Any]:
        """A prediction as a reader wants it, with what the class logits (kept, C) tell beside it."""
        return {"prediction": prediction}

    @abstractmethod
    def scorer(self, rows: list[Row], predictions: list) -> Callable[[np.ndarray], dict[str, float]]:
        """A function from the numbers of rows, repeated or not, to every metric of the kind, ``metric`` among them."""

    def score(self, rows: list[Row], predictions: list) -> dict[str, float]:
        return self.scorer(rows, predictions)(np.arange(len(rows)))

    @property
    def metrics_by_length(self) -> tuple[str, ...]:
        """Those that are told by ``length`` of the rows too."""
        return (self.metric,)

    @abstractmethod
    def length(self, row: Row) -> int:
        """The number of words by which scores are told apart: of the row's text, for most kinds."""

    @abstractmethod
    def calibration(
        self, rows: list[Row], predictions: list, logits: list[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """(said, found), (N,) each: the probability of an answer and whether it is right, or a number and the label.

        predictions: after the threshold. logits: the kept class logits, (kept, C), of each sequence.
        """

    @abstractmethod
    def trivial_predictions(self, train: list[Row], rows: list[Row]) -> list:
        """What the trivial predictor says of ``rows``: the score that a teacher has to beat."""

    def submitted(self, prediction: Any, source: Source) -> str:
        """A prediction as a benchmark's server takes it."""
        raise NotImplementedError(f"{type(self).__name__} has no files of predictions")

    def agree(self, row: Row, one: Any, other: Any) -> bool:
        """Whether two models say the same of a row."""
        return one == other

    @abstractmethod
    def confusion(self, rows: list[Row], predictions: list) -> Iterator[tuple[str, str]]:
        """(actual, predicted) pairs for the plot."""

    # Augmentation

    @abstractmethod
    def replaceable(self, row: Row) -> dict[str, tuple[str, list[Span]]]:
        """Field → its text, and the spans of the text in which words may be replaced."""

    @abstractmethod
    def replaced(self, row: Row, field: str, edits: list[Edit]) -> Row:
        """A valid copy of ``row``, its labels still true, after edits of the text of ``field``, in order."""

    def swaps(self, row: Row, others: dict, probability: float, draw) -> dict[str, list[Edit]]:
        """Edits of labelled parts, field → edits, from what ``exchangeable`` found; none for most kinds."""
        return {}

    def exchangeable(self, train: list[Row]) -> dict:
        return {}


def spliced(text: str, edits: list[Edit]) -> str:
    """``text`` with (start, end, new) spans replaced, in order; everything between them stays to the character."""
    parts, last = [], 0
    for start, end, new in edits:
        parts += [text[last:start], new]
        last = end
    return "".join([*parts, text[last:]])


def balanced(counts: list[int]) -> list[float]:
    """Weights of classes that occur so often; 1 for one that never does."""
    there = sum(count > 0 for count in counts)
    return [sum(counts) / (there * count) if count else 1.0 for count in counts]
