"""Extractive question answering in the forms of SQuAD 1.1 (every question has an answer) and 2.0 (some have none).

A row has ``question``, ``passage`` and ``answers``, each with its ``text`` and its ``start`` in the passage. A question
without answers is unanswerable. A passage longer than the model's limit is split into windows that overlap by
``stride`` word pieces.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import regex
from pydantic import Field

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import log_count
from pipeline.tinybert.core.settings import Group, Source, Table
from pipeline.tinybert.data import words
from pipeline.tinybert.data.cells import BadRecordError, text_of
from pipeline.tinybert.data.part_of_text import find_part, stripped_before
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.models import piece_spans
from pipeline.tinybert.tasks import squad
from pipeline.tinybert.tasks.task import Edit, Span, Task, splice, with_dropped_characters

if TYPE_CHECKING:
    from torch import Tensor

SHORTEST_WINDOW = 32  # word pieces
SMALLEST_PROBABILITY = 1e-6  # of a start or an end that another tokenizer does not have
SENTENCE_END = re.compile(r"[.!?](?=\s|$)")
WORD = regex.compile(r"\w+")  # unlike that of re, also with vowel signs and accents


class Options(Group):
    unanswerable: bool = Field(False, description="true: questions may have no answer, as in SQuAD 2.0")
    stride: int = Field(128, ge=0, le=100_000, description="overlap of the windows of a long passage, in word pieces")
    longest_answer: int = Field(30, ge=1, le=100_000, description="longest predicted answer, in word pieces")


class QuestionAnswering(Task):
    loss: ClassVar = "span_cross_entropy"
    head_name: ClassVar = "AutoModelForQuestionAnswering"
    pipeline_tag: ClassVar = "question-answering"
    reads_texts: ClassVar = False
    columns: ClassVar = {"question": "question", "passage": "context", "answers": "answers"}
    target_fields: ClassVar = ("answers",)
    Options: ClassVar = Options

    @property
    def metrics(self) -> tuple[str, ...]:  # type: ignore[override]
        by_kind = ("f1_with_answer", "exact_match_with_answer", "without_answer")
        return ("f1", "exact_match", *(by_kind if self.options.unanswerable else ()))

    @property
    def num_classes(self) -> int:
        return 2

    # Rows

    def parse_record(self, record: dict, source: Table, labelled: bool) -> Row:
        row = {
            "question": text_of(record, source.question or self.columns["question"], "question"),
            "passage": text_of(record, source.passage or self.columns["passage"], "passage"),
        }
        if not labelled:
            return row
        assert isinstance(source, Source)
        before = stripped_before(record[source.passage or self.columns["passage"]])
        column = source.answers or self.columns["answers"]
        cell, answers, repairs = record[column], [], []
        if cell is None or cell == "" or (isinstance(cell, float) and cell != cell):  # null, or NaN
            cell, repairs = [], [f"column '{column}' is empty, which counts as no answer"]
        for text, start in squad.answers_of(cell):
            actual_start = find_part(text, start - before, row["passage"], "answer", "passage")
            if actual_start != start - before:
                repairs.append(f"the answer '{text}' begins at {actual_start + before}, not at {start}")
            answers.append({"text": text, "start": actual_start})
        if not answers and not self.options.unanswerable:
            raise BadRecordError(
                "no answer: every question needs one (for SQuAD 2.0, set the task's options.unanswerable: true)"
            )
        unique = [answer for number, answer in enumerate(answers) if answer not in answers[:number]]
        return {**row, "answers": unique, **({"repaired": "; ".join(repairs)} if repairs else {})}

    def duplicate_key(self, row: Row) -> Any:
        return row["question"], row["passage"]

    def group(self, row: Row) -> str:
        """All questions on a passage go to the same split."""
        return row["passage"]

    def label_names(self, train: list[Row], source: Source, key: str) -> list[str]:
        if not any(row["answers"] for row in train):
            raise UserError(f"{key}: no answer in {len(train)} questions: check `answers`")
        return []

    def summary(self, rows: list[Row]) -> str:
        without = sum(not row["answers"] for row in rows)
        passages = len({row["passage"] for row in rows})
        return f"on {passages} passages" + (f", {without} without answer" if self.options.unanswerable else "")

    # Models

    def encode(self, rows: list[Row], tokenizer, with_spans: bool = False) -> dict[str, list]:
        """Model inputs with one entry per window, and the further columns of ``Task.encode``.

        The positions that count are those of the passage and the first one, the class token, which means "no answer".
        ``spans``: for each position that counts, the span of its characters in the passage, with those beside it that
        the tokenizer drops; (0, 0) for the class token.
        """
        longest = min(self.max_length, tokenizer.model_max_length)
        if longest < SHORTEST_WINDOW:
            raise UserError(f"max_length: {longest}: question and passage need {SHORTEST_WINDOW} word pieces or more")
        encoded = tokenizer(
            _truncate_questions([row["question"] for row in rows], longest // 2, tokenizer),
            [row["passage"] for row in rows],
            truncation="only_second",
            max_length=longest,
            stride=min(self.options.stride, longest // 4),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        example = encoded.pop("overflow_to_sample_mapping")
        offsets = encoded.pop("offset_mapping")
        label_mask, windows = [], []
        pieces: list[set[Span]] = [set() for _ in rows]  # the spans in each passage
        for window, characters in enumerate(offsets):
            passage = [part == 1 for part in encoded.sequence_ids(window)]
            windows.append([span for span, inside in zip(characters, passage, strict=True) if inside])
            pieces[example[window]].update(windows[-1])
            passage[0] = True
            label_mask.append(passage)
        extended = [with_dropped_characters(spans, row["passage"]) for spans, row in zip(pieces, rows, strict=True)]
        spans = [
            [[0, 0], *(list(extended[index][span]) for span in window)]
            for index, window in zip(example, windows, strict=True)
        ]
        columns = {**encoded, "label_mask": label_mask, "example": example, "spans": spans}
        if with_spans:
            columns["piece_spans"] = [piece_spans.spans(encoded, number) for number in range(len(example))]
        if rows and all("answers" in row for row in rows):
            answers = [_covered(row["answers"], spans) for row, spans in zip(rows, pieces, strict=True)]
            targets = [
                _answer_positions(answers[index], window, np.flatnonzero(mask))
                for index, window, mask in zip(example, windows, label_mask, strict=True)
            ]
            columns["start_positions"], columns["end_positions"] = (list(side) for side in zip(*targets, strict=True))
        return columns

    def as_read(self, row: Row, spans: np.ndarray) -> tuple[Row, int]:
        """The passage's part in a window."""
        inside = spans[piece_spans.in_second_text(spans)] - piece_spans.TEXT
        start, end = (int(inside[0, 0]), int(inside[-1, 1])) if len(inside) else (0, 0)
        return {"question": row["question"], "passage": row["passage"][start:end]}, start

    def second_reader(self, tokenizer) -> Task:
        """A window of another tokenizer may need more pieces for the same characters."""
        reader = copy.copy(self)
        reader.max_length = max(self.max_length, min(2 * self.max_length, tokenizer.model_max_length))
        return reader

    def align_logits(self, logits: Tensor, mask: Tensor, own: Tensor, first: Tensor, end: Tensor) -> Tensor:
        """By characters. As the start of an answer, a piece gets the summed probability of the other model's pieces
        whose first character it contains; as the end, of those whose last character it contains. Probability outside
        the window counts as no answer.

        The logits are NaN if the other model has not read the window's last two pieces. It may lack the last one, which
        can stand for no character (a byte-level model's space before an emoji).
        """
        import torch

        made = logits.new_full((*own.shape, 2), torch.nan)
        for row, found in enumerate(logits.double()):
            ranges = torch.stack([first[row], end[row]], dim=1)[mask[row]]
            if ranges[:, 1].max() < own[row].nonzero()[-1, 0]:
                continue
            places = ranges - torch.tensor([0, 1])  # the pieces in which each one starts and ends
            places = torch.where((ranges[:, :1] < ranges[:, 1:]) & own[row][places], places, 0)
            probability = found.new_zeros(own.size(1), 2).scatter_add(0, places, found[mask[row]].softmax(dim=0))
            made[row] = probability.clamp(min=SMALLEST_PROBABILITY).log().to(made.dtype)
        return made

    def head_options(self) -> dict[str, Any]:
        return {}

    def label_loss(self, outputs, inputs: dict[str, Tensor]) -> Tensor:
        """The mean cross-entropy of start and end over real positions.

        The loss of the transformers model would count padding as possible positions of an answer.
        """
        import torch
        from torch.nn.functional import cross_entropy

        padding = ~inputs["attention_mask"].bool().unsqueeze(-1)
        logits = self.class_logits(outputs).float().masked_fill(padding, -torch.inf)
        targets = torch.stack([inputs["start_positions"], inputs["end_positions"]], dim=-1)
        # Starts and ends become rows of a matrix: on more dimensions, a GPU's sums are not deterministic.
        return cross_entropy(logits.transpose(1, 2).flatten(0, 1), targets.flatten())

    def count_distributions(self, label_mask: Tensor) -> Tensor:
        """One per sequence: a distribution over its positions."""
        import torch

        return torch.ones_like(label_mask[:, 0]).sum()

    def class_logits(self, outputs) -> Tensor:
        """Start and end logits as two classes, (B, P, 2)."""
        import torch

        return torch.stack([outputs.start_logits, outputs.end_logits], dim=-1)

    # A prediction is the best answer: {"text", "start", "probability", "margin", "none_probability"}. The margin is the
    # score of "no answer" minus the score of the answer. A probability is that of the start times that of the end,
    # each within its window.

    def predictions(self, logits: list[np.ndarray], data: Any, rows: list[Row]) -> list[dict]:
        from scipy.special import log_softmax

        best = [(-np.inf, {"text": "", "start": 0, "probability": 0.0})] * len(rows)  # (score, answer)
        no_answer = [(np.inf, 0.0)] * len(rows)  # (score, probability)
        for number, window, values in zip(data["example"], data["spans"], logits, strict=True):
            log_p = log_softmax(values, axis=0)
            no_answer[number] = min(no_answer[number], (float(values[0].sum()), float(np.exp(log_p[0].sum()))))
            score, first, last = _best_span(values[1:], self.options.longest_answer)
            if score > best[number][0]:
                start, end = window[first + 1][0], window[last + 1][1]
                probability = float(np.exp(log_p[first + 1, 0] + log_p[last + 1, 1]))
                text = rows[number]["passage"][start:end]
                best[number] = score, {"text": text, "start": start, "probability": probability}
        return [
            {**answer, "margin": none_score - score, "none_probability": none_probability}
            for (score, answer), (none_score, none_probability) in zip(best, no_answer, strict=True)
        ]

    @property
    def needs_threshold(self) -> bool:
        return self.options.unanswerable

    def best_threshold(self, rows: list[Row], predictions: list[dict]) -> float | None:
        """The margin above which the prediction is "no answer": the one that maximises F1 on these rows, as in SQuAD
        2.0's script.
        """
        if not self.options.unanswerable:
            return None
        # Without an allowed answer (the passage has no word piece), the margin is infinite, and no threshold matters.
        finite = [number for number, answer in enumerate(predictions) if np.isfinite(answer["margin"])]
        if not finite:
            return 0.0
        rows, predictions = [rows[number] for number in finite], [predictions[number] for number in finite]
        margins = np.array([prediction["margin"] for prediction in predictions])
        f1_if_answered = np.array(
            [squad.f1(row, answer["text"]) for row, answer in zip(rows, predictions, strict=True)]
        )
        f1_if_none = np.array([squad.f1(row, "") for row in rows])
        order = np.argsort(margins, kind="stable")
        margins = margins[order]
        # gains[k]: the total F1 if the k smallest margins are answered, minus the total F1 if none is answered.
        gains = np.concatenate([[0], np.cumsum((f1_if_answered - f1_if_none)[order])])
        separable = np.concatenate([[True], margins[:-1] != margins[1:], [True]])  # no threshold splits equal margins
        answered = int(np.argmax(np.where(separable, gains, -np.inf)))
        if answered == 0:
            return float(margins[0] - 1)
        if answered == len(margins):
            return float(margins[-1] + 1)
        return float((margins[answered - 1] + margins[answered]) / 2)

    def apply_threshold(self, predictions: list[dict], threshold: float | None) -> list[dict]:
        """Empty the text of each prediction with a margin above the threshold."""
        if threshold is None:
            return predictions
        return [
            {**prediction, "text": "" if prediction["margin"] > threshold else prediction["text"]}
            for prediction in predictions
        ]

    def scorer(self, rows: list[Row], predictions: list[dict]) -> Callable[[np.ndarray], dict[str, float]]:
        """SQuAD's exact match and F1: the maximum over the reference answers, without articles and punctuation."""
        pairs = [(row, prediction["text"]) for row, prediction in zip(rows, predictions, strict=True)]
        exact = np.array([squad.exact_match(*pair) for pair in pairs])
        overlap = np.array([squad.f1(*pair) for pair in pairs])
        answerable = np.array([bool(row["answers"]) for row in rows])

        def score(chosen: np.ndarray) -> dict[str, float]:
            scores = {"f1": float(overlap[chosen].mean()), "exact_match": float(exact[chosen].mean())}
            if self.options.unanswerable:
                with_answer, without_answer = chosen[answerable[chosen]], chosen[~answerable[chosen]]
                scores["f1_with_answer"] = _mean(overlap[with_answer])
                scores["exact_match_with_answer"] = _mean(exact[with_answer])
                scores["without_answer"] = _mean(exact[without_answer])
            return scores

        return score

    @property
    def metrics_by_length(self) -> tuple[str, ...]:
        return "f1", "exact_match"

    def length(self, row: Row) -> int:
        """The number of words of the first reference answer; 0 if there is none."""
        return words.count(row["answers"][0]["text"]) if row["answers"] else 0

    def calibration(
        self, rows: list[Row], predictions: list[dict], logits: list[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The probability of the prediction, an answer or "no answer". An exact match counts as correct."""
        confidence = [answer["probability" if answer["text"] else "none_probability"] for answer in predictions]
        correct = [squad.exact_match(row, answer["text"]) for row, answer in zip(rows, predictions, strict=True)]
        return np.array(confidence), np.array(correct)

    def without_text(self, prediction: dict) -> list[int] | None:
        """The span of the answer in the passage; None for "no answer"."""
        start, text = prediction["start"], prediction["text"]
        return [start, start + len(text)] if text else None

    def trivial_predictions(self, train: list[Row], rows: list[Row]) -> list[dict]:
        """Always the passage's first sentence; or always "no answer", if allowed and no worse on train."""
        first_sentence_f1 = sum(squad.f1(row, _first_sentence(row["passage"])) for row in train)
        no_answer = self.options.unanswerable and sum(squad.f1(row, "") for row in train) >= first_sentence_f1
        return [
            {"text": "" if no_answer else _first_sentence(row["passage"]), "start": 0, "margin": 0.0} for row in rows
        ]

    def agree(self, row: Row, one: dict, other: dict) -> bool:
        """Whether two answers are the same after normalisation."""
        return squad.normalised(one["text"]) == squad.normalised(other["text"])

    def confusion(self, rows: list[Row], predictions: list[dict]) -> Iterator[tuple[str, str]]:
        """Actual: an answer or none. Predicted: the answer, an overlapping text, another text, or none."""
        for row, prediction in zip(rows, predictions, strict=True):
            actual = "answer" if row["answers"] else "none"
            if not prediction["text"]:
                yield actual, "none"
            elif squad.exact_match(row, prediction["text"]):
                yield actual, "answer"
            else:
                yield actual, "overlaps" if squad.f1(row, prediction["text"]) else "other"

    # Augmentation

    @property
    def pieces_read(self) -> int | None:
        """A passage is read to its end, in windows."""
        return None

    def replaceable_spans(self, row: Row) -> dict[str, tuple[str, list[Span]]]:
        """The passage without its answers, and the question without words that occur in an answer."""
        passage, question, answers = row["passage"], row["question"], row.get("answers", [])
        answer_spans = [(answer["start"], answer["start"] + len(answer["text"])) for answer in answers]
        answer_words = {
            word[start:end]
            for answer in answers
            for word in squad.normalised(answer["text"]).split()
            for start, end in words.divide(word, (0, len(word)))
        }
        mentions = [
            (start, end)
            for match in WORD.finditer(question)
            for start, end in words.divide(question, match.span())
            if squad.normalised(question[start:end]) in answer_words
        ]
        return {
            "passage": (passage, _outside(answer_spans, len(passage))),
            "question": (question, _outside(mentions, len(question))),
        }

    def apply_edits(self, row: Row, field: str, edits: list[Edit]) -> Row:
        """Apply edits; edits of the passage also shift the starts of the answers behind them."""
        edited = {**row, field: splice(row[field], edits)}
        if field == "passage" and "answers" in row:
            edited["answers"] = [
                {**answer, "start": answer["start"] + _shift(edits, answer["start"])} for answer in row["answers"]
            ]
        return edited


def _shift(edits: list[Edit], position: int) -> int:
    """By how many characters edits before a position move it."""
    return sum(len(new) - (end - start) for start, end, new in edits if end <= position)


def _truncate_questions(questions: list[str], longest: int, tokenizer) -> list[str]:
    """Truncate questions to ``longest`` word pieces, to leave room for the passage."""
    offsets = tokenizer(questions, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    log_count(
        sum(len(spans) > longest for spans in offsets),
        len(questions),
        f"questions are longer than {longest} word pieces (half of max_length) and are cut",
    )
    return [
        question[: spans[longest - 1][1]] if len(spans) > longest else question
        for question, spans in zip(questions, offsets, strict=True)
    ]


def _covered(answers: list[dict], pieces: Iterable[Span]) -> Span | None:
    """The span of the first answer without characters at its ends that the tokenizer drops; None if nothing is left."""
    if not answers:
        return None
    low, high = answers[0]["start"], answers[0]["start"] + len(answers[0]["text"])
    parts = [(max(start, low), min(end, high)) for start, end in pieces if start < high and end > low]
    return (min(start for start, _ in parts), max(end for _, end in parts)) if parts else None


def _answer_positions(answer: Span | None, spans: list[Span], positions: np.ndarray) -> tuple[int, int]:
    """The positions of an answer's first and last word piece in a window; (0, 0), the class token's, if the answer is
    not inside the window.

    ``spans``: the character spans of the window's part of the passage. ``positions``: the indices of the class token
    and of these spans in the window.
    """
    if answer:
        low, high = answer
        inside = [i for i, (start, end) in enumerate(spans) if start < high and end > low]
        if inside and spans[inside[0]][0] <= low and spans[inside[-1]][1] >= high:
            return int(positions[inside[0] + 1]), int(positions[inside[-1] + 1])
    return 0, 0


def _best_span(logits: np.ndarray, longest: int) -> tuple[float, int, int]:
    """(score, first, last) of the best span of at most ``longest`` positions. The score is start logit + end logit.

    ``logits``: (positions, 2).
    """
    if not len(logits):
        return -np.inf, 0, 0
    sums = logits[:, 0, None] + logits[None, :, 1]
    allowed = np.triu(np.tri(len(logits), k=longest - 1, dtype=bool))
    best = int(np.where(allowed, sums, -np.inf).argmax())
    first, last = divmod(best, len(logits))
    return float(sums[first, last]), first, last


def _outside(spans: list[Span], length: int) -> list[Span]:
    """The spans of a text of ``length`` characters that ``spans`` do not cover."""
    gaps, covered = [], 0
    for start, end in sorted(spans):
        if start > covered:
            gaps.append((covered, start))
        covered = max(covered, end)
    return [*gaps, (covered, length)] if covered < length else gaps


def _first_sentence(passage: str) -> str:
    ends = SENTENCE_END.search(passage), words.SENTENCE_MARK.search(passage)
    return passage[: min((end.start() for end in ends if end), default=None)]


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0
