"""Extractive question answering, as SQuAD 1.1 (every question has an answer) and 2.0 (some have none).

A row has ``question``, ``passage`` and ``answers``, each with its ``text`` and where it ``start``s; none: unanswerable.
A passage longer than the model takes is read in windows that overlap by ``stride`` word-pieces.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Iterator
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field, PositiveInt
from scipy.special import log_softmax
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForQuestionAnswering

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import first_ten, log_count
from pipeline.tinybert.core.settings import Group, Source, Table
from pipeline.tinybert.data.records import BadRecordError, text_of
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.tasks.task import Edit, Span, Task, spliced

NEARBY = 50  # characters that an offset may be off
SHORTEST_WINDOW = 32  # word-pieces
SENTENCE_END = re.compile(r"[.!?](?=\s|$)")


class Options(Group):
    """unanswerable: SQuAD 2.0. stride: word-pieces that windows share. longest_answer: in word-pieces."""

    unanswerable: bool = False
    stride: int = Field(default=128, ge=0)
    longest_answer: PositiveInt = 30


class QuestionAnswering(Task):
    loss: ClassVar = "span_cross_entropy"
    head: ClassVar = AutoModelForQuestionAnswering
    pipeline_tag: ClassVar = "question-answering"
    columns: ClassVar = {"question": "question", "passage": "context", "answers": "answers"}
    targets: ClassVar = ("answers",)
    Options: ClassVar = Options

    @property
    def metrics(self) -> tuple[str, ...]:
        by_kind = ("f1_with_answer", "exact_match_with_answer", "without_answer")
        return ("f1", "exact_match", *(by_kind if self.options.unanswerable else ()))

    @property
    def classes(self) -> int:
        return 2

    # Rows

    def row(self, record: dict, source: Table, labelled: bool) -> Row:
        row = {
            "question": text_of(record, source.question or self.columns["question"], "question"),
            "passage": text_of(record, source.passage or self.columns["passage"], "passage"),
        }
        if not labelled:
            return row
        offset = _stripped_before(record[source.passage or self.columns["passage"]])
        answers, repairs = [], []
        for text, start in _answers_of(record[source.answers or self.columns["answers"]]):
            found = _found(text, start - offset, row["passage"])
            repairs += [f"the answer '{text}' begins at {found + offset}, not at {start}"] * (found != start - offset)
            answers.append({"text": text, "start": found})
        if not answers and not self.options.unanswerable:
            raise BadRecordError(
                "no answer: SQuAD 1.1 has one for every question (the task's options.unanswerable: true for SQuAD 2.0)"
            )
        unique = [answer for number, answer in enumerate(answers) if answer not in answers[:number]]
        return {**row, "answers": unique, **({"repaired": "; ".join(repairs)} if repairs else {})}

    def identity(self, row: Row) -> Any:
        return row["question"], row["passage"]

    def group(self, row: Row) -> str:
        return row["passage"]

    def label_names(self, train: list[Row], source: Source, key: str) -> list[str]:
        if not any(row["answers"] for row in train):
            raise UserError(f"{key}: none of {len(train)} questions has an answer: look at its `answers`")
        return []

    def described(self, rows: list[Row]) -> str:
        without = sum(not row["answers"] for row in rows)
        passages = len({row["passage"] for row in rows})
        return f"on {passages} passages" + (f", {without} without answer" if self.options.unanswerable else "")

    # Models

    def encode(self, rows: list[Row], tokenizer) -> dict[str, list]:
        """Windows: columns beside the model's inputs as ``Task.encode`` says, and ``spans``, the characters of the
        passage at each kept position; the first is that of the class token, which stands for no answer.
        """
        longest = min(self.max_length, tokenizer.model_max_length)
        if longest < SHORTEST_WINDOW:
            raise UserError(f"max_length: {longest}: question and passage need {SHORTEST_WINDOW} word-pieces or more")
        encoded = tokenizer(
            _shortened([row["question"] for row in rows], longest // 2, tokenizer),
            [row["passage"] for row in rows],
            truncation="only_second",
            max_length=longest,
            stride=min(self.options.stride, longest // 4),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        example = encoded.pop("overflow_to_sample_mapping")
        offsets = encoded.pop("offset_mapping")
        kept, spans = [], []
        for window, characters in enumerate(offsets):
            passage = [part == 1 for part in encoded.sequence_ids(window)]
            passage[0] = True
            kept.append(passage)
            spans.append([list(span) if at else [0, 0] for at, span in enumerate(characters) if passage[at]])
        columns = {**encoded, "kept": kept, "example": example, "spans": spans}
        if rows and all("answers" in row for row in rows):
            targets = [
                _target(rows[number]["answers"], window, np.flatnonzero(at))
                for number, window, at in zip(example, spans, kept, strict=True)
            ]
            columns["start_positions"], columns["end_positions"] = (list(side) for side in zip(*targets, strict=True))
        return columns

    def head_options(self) -> dict[str, Any]:
        return {}

    def label_loss(self, outputs, inputs: dict[str, Tensor]) -> Tensor:
        """Over real positions: the library's takes padding for places where an answer may be."""
        padding = ~inputs["attention_mask"].bool().unsqueeze(-1)
        logits = self.class_logits(outputs).float().masked_fill(padding, -torch.inf)
        places = torch.stack([inputs["start_positions"], inputs["end_positions"]], dim=-1)
        # Start and end as rows of their own: over more dimensions a GPU's sums are not the same each time.
        return cross_entropy(logits.transpose(1, 2).flatten(0, 1), places.flatten())

    def compared(self, kept: Tensor) -> Tensor:
        """A distribution over the positions of each sequence."""
        return torch.ones_like(kept[:, 0]).sum()

    def class_logits(self, outputs) -> Tensor:
        return torch.stack([outputs.start_logits, outputs.end_logits], dim=-1)

    # Predictions: {"text", "start", "probability", "margin", "none_probability"}: the best answer, where it starts, and
    # by how much none is better; the probability of each is that of its start times that of its end, in its window.

    def predictions(self, logits: list[np.ndarray], data: Any, rows: list[Row]) -> list[dict]:
        best = [(-np.inf, {"text": "", "start": 0, "probability": 0.0})] * len(rows)  # (score, answer)
        none = [(np.inf, 0.0)] * len(rows)  # (score, probability)
        for number, window, values in zip(data["example"], data["spans"], logits, strict=True):
            log_p = log_softmax(values, axis=0)
            none[number] = min(none[number], (float(values[0].sum()), float(np.exp(log_p[0].sum()))))
            score, first, last = _best_span(values[1:], self.options.longest_answer)
            if score > best[number][0]:
                start, end = window[first + 1][0], window[last + 1][1]
                probability = float(np.exp(log_p[first + 1, 0] + log_p[last + 1, 1]))
                text = rows[number]["passage"][start:end]
                best[number] = score, {"text": text, "start": start, "probability": probability}
        return [
            {**found, "margin": none_score - score, "none_probability": none_probability}
            for (score, found), (none_score, none_probability) in zip(best, none, strict=True)
        ]

    def answer(self, row: Row, prediction: dict, logits: list[np.ndarray]) -> dict[str, Any]:
        return {"answer": prediction["text"], **({"start": prediction["start"]} if prediction["text"] else {})}

    @property
    def needs_threshold(self) -> bool:
        return self.options.unanswerable

    def threshold(self, rows: list[Row], predictions: list[dict]) -> float | None:
        """The margin above which none is said that gives the best F1 on these rows, as SQuAD 2.0's script finds it."""
        if not self.options.unanswerable:
            return None
        margins = np.array([said["margin"] for said in predictions])
        if_answered = np.array([f1(row, said["text"]) for row, said in zip(rows, predictions, strict=True)])
        if_none = np.array([f1(row, "") for row in rows])
        order = np.argsort(margins, kind="stable")
        totals = np.concatenate([[0], np.cumsum((if_answered - if_none)[order])])
        ends = np.concatenate([margins[order][:-1] != margins[order][1:], [True]])  # equal margins go together
        allowed = np.concatenate([[True], ends])
        best = int(np.argmax(np.where(allowed, totals, -np.inf)))
        finite = margins[order]
        if best == 0:
            return float(finite[0] - 1)
        return float(finite[-1] + 1 if best == len(finite) else (finite[best - 1] + finite[best]) / 2)

    def decided(self, predictions: list[dict], threshold: float | None) -> list[dict]:
        if threshold is None:
            return predictions
        return [{**said, "text": "" if said["margin"] > threshold else said["text"]} for said in predictions]

    def scorer(self, rows: list[Row], predictions: list[dict]) -> Callable[[np.ndarray], dict[str, float]]:
        """SQuAD's exact match and F1: the best over the reference answers, articles and punctuation left out."""
        pairs = list(zip(rows, predictions, strict=True))
        exact = np.array([exact_match(row, said["text"]) for row, said in pairs])
        overlap = np.array([f1(row, said["text"]) for row, said in pairs])
        answerable = np.array([bool(row["answers"]) for row in rows])

        def score(chosen: np.ndarray) -> dict[str, float]:
            scores = {"f1": float(overlap[chosen].mean()), "exact_match": float(exact[chosen].mean())}
            if self.options.unanswerable:
                there, none = chosen[answerable[chosen]], chosen[~answerable[chosen]]
                scores["f1_with_answer"] = _mean(overlap[there])
                scores["exact_match_with_answer"] = _mean(exact[there])
                scores["without_answer"] = _mean(exact[none])
            return scores

        return score

    @property
    def metrics_by_length(self) -> tuple[str, ...]:
        return "f1", "exact_match"

    def length(self, row: Row) -> int:
        """Of the first reference answer; 0 where there is none."""
        return len(row["answers"][0]["text"].split()) if row["answers"] else 0

    def calibration(
        self, rows: list[Row], predictions: list[dict], logits: list[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Right is an exact match."""
        said = [found["probability" if found["text"] else "none_probability"] for found in predictions]
        right = [exact_match(row, found["text"]) for row, found in zip(rows, predictions, strict=True)]
        return np.array(said), np.array(right)

    def trivial_predictions(self, train: list[Row], rows: list[Row]) -> list[dict]:
        """The passage's first sentence or, where that is possible and the better guess for train, always none."""
        first = sum(f1(row, _first_sentence(row["passage"])) for row in train)
        says_none = self.options.unanswerable and sum(f1(row, "") for row in train) >= first
        return [
            {"text": "" if says_none else _first_sentence(row["passage"]), "start": 0, "margin": 0.0} for row in rows
        ]

    def agree(self, row: Row, one: dict, other: dict) -> bool:
        return normalised(one["text"]) == normalised(other["text"])

    def confusion(self, rows: list[Row], predictions: list[dict]) -> Iterator[tuple[str, str]]:
        """What should be said and what is: the answer, a part of it or more, something else, none."""
        for row, said in zip(rows, predictions, strict=True):
            actual = "answer" if row["answers"] else "none"
            if not said["text"]:
                yield actual, "none"
            elif exact_match(row, said["text"]):
                yield actual, "answer"
            else:
                yield actual, "overlaps" if f1(row, said["text"]) else "other"

    # Augmentation

    def replaceable(self, row: Row) -> dict[str, tuple[str, list[Span]]]:
        """No word of an answer in the passage, and no occurrence of one in the question."""
        passage, question, answers = row["passage"], row["question"], row.get("answers", [])
        within = [(answer["start"], answer["start"] + len(answer["text"])) for answer in answers]
        words = {word for answer in answers for word in normalised(answer["text"]).split()}
        mentioned = [match.span() for match in re.finditer(r"\w+", question) if normalised(match.group()) in words]
        return {
            "passage": (passage, _between(within, len(passage))),
            "question": (question, _between(mentioned, len(question))),
        }

    def replaced(self, row: Row, field: str, edits: list[Edit]) -> Row:
        made = {**row, field: spliced(row[field], edits)}
        if field == "passage" and "answers" in row:
            made["answers"] = [
                {
                    **answer,
                    "start": answer["start"]
                    + sum(len(new) - (end - start) for start, end, new in edits if end <= answer["start"]),
                }
                for answer in row["answers"]
            ]
        return made


KEEP_LETTERS = str.maketrans("", "", string.punctuation)
ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalised(text: str) -> str:
    """SQuAD's normalisation: lower case, no punctuation, no articles, single spaces."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(KEEP_LETTERS)).split())


def exact_match(row: Row, said: str) -> float:
    return max(float(normalised(said) == normalised(text)) for text in _references(row))


def f1(row: Row, said: str) -> float:
    """The best word overlap of ``said`` with a reference answer; with no words on a side, whether both have none."""
    return max(_overlap(normalised(text).split(), normalised(said).split()) for text in _references(row))


def _references(row: Row) -> list[str]:
    """Those with words after normalisation; an unanswerable question has the empty answer, as in SQuAD's script."""
    return [answer["text"] for answer in row["answers"] if normalised(answer["text"])] or [""]


def _overlap(reference: list[str], said: list[str]) -> float:
    if not reference or not said:
        return float(reference == said)
    same = sum((Counter(reference) & Counter(said)).values())
    return 2 * same / (len(reference) + len(said))


def _answers_of(cell: Any) -> list[tuple[str, int]]:
    """SQuAD's two forms: a list of objects with ``text`` and ``answer_start``, or one object with a list of each."""
    if isinstance(cell, dict):
        pairs = zip(_sequence(cell.get("text")), _sequence(cell.get("answer_start")), strict=False)
        complete = len(_sequence(cell.get("text"))) == len(_sequence(cell.get("answer_start")))
    else:
        cell = _sequence(cell)
        complete = all(isinstance(answer, dict) for answer in cell)
        pairs = ((answer.get("text"), answer.get("answer_start")) for answer in cell if complete)
    made = []
    for text, start in pairs if complete else ():
        if not isinstance(text, str) or not text.strip():
            raise BadRecordError("an answer is an empty text")
        if not isinstance(start, Integral):
            raise BadRecordError(f"answer_start of '{text}' is {start!r}: expected a whole number")
        made.append((text.strip(), int(start) + _stripped_before(text)))
    if not complete:
        raise BadRecordError(EXPECTED_ANSWERS)
    return made


EXPECTED_ANSWERS = "answers: expected a list of objects with `text` and `answer_start`"


def _sequence(cell: Any) -> list:
    if not isinstance(cell, list | tuple | np.ndarray):
        raise BadRecordError(EXPECTED_ANSWERS)
    return list(cell)


def _stripped_before(text: str) -> int:
    return len(text) - len(text.lstrip())


def _found(text: str, start: int, passage: str) -> int:
    """Where an answer starts: there, or at its only occurrence nearby."""
    if start >= 0 and passage.startswith(text, start):
        return start
    if text not in passage:
        raise BadRecordError(f"the answer '{text}' does not occur in its passage")
    low = max(0, start - NEARBY)
    near = [match.start() + low for match in re.finditer(re.escape(text), passage[low : start + len(text) + NEARBY])]
    if len(near) != 1:
        places = [match.start() for match in re.finditer(re.escape(text), passage)]
        raise BadRecordError(
            f"the answer '{text}' is not at character {start} of its passage, but at {first_ten(places)}: correct its start"
        )
    return near[0]


def _shortened(questions: list[str], longest: int, tokenizer) -> list[str]:
    """Questions cut to ``longest`` word-pieces: the passage needs room too."""
    offsets = tokenizer(questions, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    log_count(
        sum(len(spans) > longest for spans in offsets),
        len(questions),
        f"questions are longer than {longest} word-pieces (half of max_length) and are cut",
    )
    return [
        question[: spans[longest - 1][1]] if len(spans) > longest else question
        for question, spans in zip(questions, offsets, strict=True)
    ]


def _target(answers: list[dict], spans: list[list[int]], positions: np.ndarray) -> tuple[int, int]:
    """Positions of the first answer's first and last word-piece in a window; the class token where it is not inside."""
    if answers:
        low, high = answers[0]["start"], answers[0]["start"] + len(answers[0]["text"])
        inside = [at for at, (start, end) in enumerate(spans[1:], 1) if start < high and end > low]
        if inside and spans[inside[0]][0] <= low and spans[inside[-1]][1] >= high:
            return int(positions[inside[0]]), int(positions[inside[-1]])
    return 0, 0


def _best_span(logits: np.ndarray, longest: int) -> tuple[float, int, int]:
    """(score, first, last) of the best span of ``longest`` positions at most: start logit plus end logit."""
    if not len(logits):
        return -np.inf, 0, 0
    sums = logits[:, 0, None] + logits[None, :, 1]
    allowed = np.triu(np.tri(len(logits), k=longest - 1, dtype=bool))
    best = int(np.where(allowed, sums, -np.inf).argmax())
    first, last = divmod(best, len(logits))
    return float(sums[first, last]), first, last


def _between(spans: list[Span], length: int) -> list[Span]:
    """What spans leave of a text."""
    made, last = [], 0
    for start, end in sorted(spans):
        if start > last:
            made.append((last, start))
        last = max(last, end)
    return [*made, (last, length)] if last < length else made


def _first_sentence(passage: str) -> str:
    end = SENTENCE_END.search(passage)
    return passage[: end.start()] if end else passage


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0
