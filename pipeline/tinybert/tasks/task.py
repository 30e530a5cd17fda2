"""The interface of a task kind, and code that several kinds share.

The libraries that only models and scores need are imported where they are used: `predict` starts without them.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.settings import Group, Source, Table
from pipeline.tinybert.data.rows import Row

if TYPE_CHECKING:
    from scipy import sparse
    from torch import Tensor
    from transformers import PreTrainedModel

Span = tuple[int, int]
Edit = tuple[int, int, str]  # start, end, the new text of this span

BLANK = re.compile(r"\s")


class Task(ABC):
    """A task: its kind (the subclass), its settings, and the labels found in its training rows.

    The model outputs of every kind become class logits of shape (B, P, C): B sequences, P positions, C classes. A mask
    (B, P) selects the positions that count: one for a text, one per word for a tagged sentence, one per position of
    the passage for a question.
    """

    metrics: ClassVar[tuple[str, ...]]
    columns: ClassVar[dict[str, str | None]]  # field → default name of its source column (None: read only if set)
    target_fields: ClassVar[tuple[str, ...]]  # the fields of `columns` that are absent from unlabelled rows
    reads_texts: ClassVar[bool] = True  # whether an unlabelled row may be a single text
    accepts_label_columns: ClassVar[bool] = False  # whether the setting `label` may list several columns
    source_settings: ClassVar[tuple[str, ...]] = ()  # further settings of a source that this kind reads
    head_name: ClassVar[str]  # of the transformers class that loads a model with this kind's head
    pipeline_tag: ClassVar[str]  # the hub's name of the kind
    has_one_class: ClassVar[bool] = False  # whether the label of a row is one of several classes
    uses_first_position_only: ClassVar[bool] = False  # whether the head reads only the first hidden state
    has_submissions: ClassVar[bool] = False  # whether benchmark servers accept prediction files of this kind
    has_probabilities: ClassVar[bool] = True  # whether `calibration` returns probabilities
    loss: ClassVar[str]  # the function in `losses` that compares student and teacher class logits (B, P, C)
    Options: ClassVar[type[Group]] = Group  # the schema of the task's `options`

    def __init__(self, metric: str, max_length: int, options: Any, labels: Iterable[str] = ()):
        self.metric, self.max_length, self.options, self.labels = metric, max_length, options, list(labels)

    # Rows

    @classmethod
    def fields(cls, source: Table, labelled: bool) -> dict[str, str | None]:
        """The fields that are read from a source: those of ``columns``, without targets if it is not ``labelled``."""
        return {field: column for field, column in cls.columns.items() if labelled or field not in cls.target_fields}

    @classmethod
    def column_names(cls, source: Table, labelled: bool = True) -> dict[str, Any]:
        """The columns that are read from a source, as field → column name or list of names."""
        names = {
            field: getattr(source, field, None) or column for field, column in cls.fields(source, labelled).items()
        }
        return {field: name for field, name in names.items() if name is not None}

    @abstractmethod
    def parse_record(self, record: dict, source: Table, labelled: bool) -> Row:
        """Convert a record (column → value) into a row. Raises BadRecordError if the record is invalid."""

    @abstractmethod
    def duplicate_key(self, row: Row) -> Any:
        """The key that two rows share if they differ at most in their labels. Equal keys mean duplicates."""

    def stratum(self, row: Row) -> str | None:
        """The class by which splits are stratified; None if the kind does not stratify."""
        return None

    def group(self, row: Row) -> str | None:
        """The group of a row. All rows of a group go to the same split. A `group` column of the source overrides it."""
        return None

    @abstractmethod
    def label_names(self, train: list[Row], source: Source, key: str) -> list[str]:
        """The labels in the order of the model's outputs, collected from the training rows.

        Raises UserError, which names ``key``, if these labels leave nothing to learn.
        """

    def labels_in(self, row: Row) -> list[str]:
        """The labels of a row. Each must also occur in train."""
        return []

    def summary(self, rows: list[Row]) -> str:
        """A summary of a split for the log, without the number of rows: label counts, for example."""
        return ""

    # Models

    @abstractmethod
    def encode(self, rows: list[Row], tokenizer, with_spans: bool = False) -> dict[str, list]:
        """Model inputs as columns with one entry per sequence, truncated to ``max_length`` (the number of truncated
        rows is logged), and these further columns:

        ``label_mask``: for each position of the sequence, whether its class logits count;
        ``example``: the index of the row that the sequence was made from;
        ``piece_spans``: where each word piece stands (`piece_spans.spans`), if ``with_spans``;
        the model's targets (``labels``, for example), if all rows are labelled.
        """

    def as_read(self, row: Row, spans: np.ndarray) -> tuple[Row, int]:
        """The part of a row that a sequence with these ``spans`` has read, and where this part begins in the row's last
        text.
        """
        return row, 0

    def second_reader(self, tokenizer) -> Task:
        """The task by which another model reads the same sequences with its own ``tokenizer``."""
        return self

    def align_logits(self, logits: Tensor, mask: Tensor, own: Tensor, first: Tensor, end: Tensor) -> Tensor:
        """Another model's class logits (B, T, C) at the positions of this model's word pieces, (B, S, C); NaN where the
        other one has read nothing.

        mask (B, T), own (B, S): the label masks of both. first, end (B, T): see `alignment.overlaps`.
        """
        return logits

    @property
    def head(self) -> type:
        """The transformers class that loads a model with this kind's head."""
        import transformers

        return getattr(transformers, self.head_name)

    def load_model(self, folder: str | Path, seed: int = 0) -> PreTrainedModel:
        """The model in ``folder`` with this task's head. A missing head is initialised at random from ``seed``."""
        from pipeline.tinybert.models import checkpoints

        return checkpoints.load(self.head, folder, seed=seed, **self.head_options())

    def head_options(self) -> dict[str, Any]:
        """Keys of the model configuration that describe the task: the names of its labels."""
        names = dict(enumerate(self.labels))
        return {"id2label": names, "label2id": {name: index for index, name in names.items()}}

    def doubt(self, rows: list[Row], predictions: list) -> str:
        """What is wrong with a model's predictions for labelled rows although its score may be good; "" if nothing."""
        return ""

    def class_weights(self, rows: list[Row]) -> list[float]:
        """One weight per class, so that all classes count equally in the loss (scikit-learn's "balanced").

        Raises UserError if the kind has no classes.
        """
        raise UserError("finetune_teacher.class_weights: this kind of task has no classes to weight: set it to false")

    def label_loss(self, outputs, inputs: dict[str, Tensor]) -> Tensor:
        """The mean loss of a labelled batch: by default, the loss that the transformers model computes."""
        return outputs["loss"]

    def count_distributions(self, label_mask: Tensor) -> Tensor:
        """The number of distributions that ``loss`` averages over, for a batch with the mask (B, P)."""
        return label_mask.sum()

    def class_logits(self, outputs) -> Tensor:
        """The class logits of a model's outputs, (B, P, C)."""
        return outputs.logits.unsqueeze(1)

    @property
    def num_classes(self) -> int:
        """The number of classes, C."""
        return len(self.labels)

    # Predictions

    @abstractmethod
    def predictions(self, logits: list[np.ndarray], data, rows: list[Row]) -> list:
        """One prediction per row.

        ``logits``: for each sequence of ``data``, the class logits of the positions that count, (positions, C).
        ``data``: the columns that ``encode`` returned for ``rows``.
        """

    @property
    def needs_threshold(self) -> bool:
        """Whether a threshold decides between an answer and no answer. It is chosen on validation."""
        return False

    def best_threshold(self, rows: list[Row], predictions: list) -> float | None:
        """The threshold with the best score on these rows; None if the kind needs no threshold."""
        return None

    def apply_threshold(self, predictions: list, threshold: float | None) -> list:
        """The predictions after applying the threshold."""
        return predictions

    @abstractmethod
    def scorer(self, rows: list[Row], predictions: list) -> Callable[[np.ndarray], dict[str, float]]:
        """A function that computes all metrics of the kind on a subset of the rows.

        Its argument holds the indices of the rows, (N,); an index may occur several times (bootstrap).
        """

    def score(self, rows: list[Row], predictions: list) -> dict[str, float]:
        """All metrics of the kind on all rows."""
        return self.scorer(rows, predictions)(np.arange(len(rows)))

    @property
    def metrics_by_length(self) -> tuple[str, ...]:
        """The metrics that are also reported by ``length`` of the rows."""
        return (self.metric,)

    @abstractmethod
    def length(self, row: Row) -> int:
        """The number of words by which scores are broken down: for most kinds, that of the row's text."""

    @abstractmethod
    def calibration(
        self, rows: list[Row], predictions: list, logits: list[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """(confidence, accuracy), (N,) each: the probability of a prediction, and whether the prediction is correct.
        For regression: the predicted number and the label.

        ``predictions``: after the threshold.
        ``logits``: for each sequence, the class logits of the positions that count, (positions, C).
        """

    def surest_mistakes(self, rows: list[Row], predictions: list, logits: list[np.ndarray]) -> np.ndarray:
        """For each row, the confidence of its surest mistake, (N,); 0 if it has none. For regression: the error.

        The arguments are those of ``calibration``.
        """
        confidence, correct = self.calibration(rows, predictions, logits)
        return np.where(correct, 0.0, confidence)

    def without_text(self, prediction: Any) -> Any:
        """A prediction as JSON, without any text of its row."""
        return prediction

    @abstractmethod
    def trivial_predictions(self, train: list[Row], rows: list[Row]) -> list:
        """Predictions for ``rows`` that ignore the text: the baseline that a teacher has to beat."""

    def submission_values(self, predictions: list, source: Source, train: list[Row]) -> list[str]:
        """Predictions in the format of a benchmark's server. ``train``: the rows whose labels tell the valid range."""
        raise NotImplementedError(f"{type(self).__name__} has no prediction files")

    def agree(self, row: Row, one: Any, other: Any) -> bool:
        """Whether two models' predictions for a row are equal."""
        return one == other

    def agreement(self, rows: list[Row], ones: list, others: list) -> float:
        """The share of the rows for which two models' predictions are equal."""
        return float(np.mean([self.agree(*triple) for triple in zip(rows, ones, others, strict=True)]))

    @abstractmethod
    def confusion(self, rows: list[Row], predictions: list) -> Iterator[tuple[str, str]]:
        """(actual, predicted) pairs for the confusion matrix plot."""

    # Augmentation

    @property
    def pieces_read(self) -> int | None:
        """How many word pieces the model reads at most, from the start of a text; None: all."""
        return self.max_length - 2  # the class token and the separator

    @abstractmethod
    def replaceable_spans(self, row: Row) -> dict[str, tuple[str, list[Span]]]:
        """Field → (its text, the spans of the text in which words may be replaced)."""

    @abstractmethod
    def apply_edits(self, row: Row, field: str, edits: list[Edit]) -> Row:
        """A copy of ``row`` with the edits applied to the text of ``field``. Its labels stay correct.

        ``edits``: in the order of their positions, without overlaps.
        """

    def is_pair(self, row: Row) -> bool:
        """Whether ``new_pair`` can make pairs of rows like this one."""
        return False

    def new_pair(self, one: Row, other: Row) -> Row | None:
        """An unlabelled row that pairs texts of two rows; None if their texts are equal."""
        return None

    def draw_swaps(self, row: Row, others: dict, probability: float, draw) -> dict[str, list[Edit]]:
        """Random edits that swap labelled parts of a row, field → edits. Most kinds have none.

        ``others``: the result of ``swap_candidates``. ``probability``: that of swapping each part. ``draw``: the random
        generator (random.Random).
        """
        return {}

    def swap_candidates(self, train: Iterable[Row]) -> dict:
        """The labelled parts of the training rows that ``draw_swaps`` may insert elsewhere."""
        return {}


def splice(text: str, edits: list[Edit]) -> str:
    """``text`` with the edits applied. Edits are in order; all characters outside their spans stay the same."""
    parts, copied = [], 0
    for start, end, new in edits:
        parts += [text[copied:start], new]
        copied = end
    return "".join([*parts, text[copied:]])


def with_dropped_characters(spans: Iterable[Span], text: str) -> dict[Span, Span]:
    """Span of a word piece in the text → the same span extended by the characters beside it that the tokenizer drops.

    A tokenizer may drop accents, vowel signs, direction marks, zero-width characters and soft hyphens. Such a character
    belongs to the piece right before it, or else to the piece right behind it. Blanks belong to no piece.
    """
    ordered = sorted(set(spans))
    if sum(end - start for start, end in ordered) == sum(map(len, text.split())):  # nothing is dropped
        return {span: span for span in ordered}
    starts_behind = [*(start for start, _ in ordered[1:]), len(text)]
    extended, before = {}, 0
    for (start, end), following in zip(ordered, starts_behind, strict=False):  # not strict: there may be no piece
        first = start - len(BLANK.split(text[before:start])[-1])
        before = end + len(BLANK.split(text[end:following])[0])
        extended[start, end] = first, before
    return extended


def balanced_weights(counts: list[int]) -> list[float]:
    """The weight of each class from its number of occurrences: all classes get the same total weight.

    A class that does not occur gets weight 1.
    """
    present = sum(count > 0 for count in counts)
    return [sum(counts) / (present * count) if count else 1.0 for count in counts]


def occurrences(names_of_rows: Iterable[Iterable[str]], names: list[str]) -> sparse.csr_array:
    """How often each of ``names`` occurs in each row, (rows, names).

    It is sparse: with ten thousand names, summing a dense matrix for each bootstrap resample would take hours.
    """
    from scipy import sparse

    index_of = {name: index for index, name in enumerate(names)}
    of_rows = [[index_of[name] for name in found] for found in names_of_rows]
    row = np.repeat(np.arange(len(of_rows)), [len(found) for found in of_rows])
    column = np.array([index for found in of_rows for index in found], dtype=int)
    return sparse.csr_array((np.ones(len(row)), (row, column)), shape=(len(of_rows), len(names)))


def resampled_sums(counts: sparse.csr_array, chosen: np.ndarray) -> np.ndarray:
    """The sum of the rows ``chosen`` (indices, which may repeat) of ``counts``, (names,)."""
    return np.bincount(chosen, minlength=counts.shape[0]).astype(float) @ counts


def f1_of(correct: Any, sizes: Any) -> Any:
    """F1 from the number of correct labels, and that of actual plus predicted labels; 0 if there are none."""
    return 2 * correct / np.where(sizes > 0, sizes, 1)
