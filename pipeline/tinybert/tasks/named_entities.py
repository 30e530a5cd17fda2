"""Named entity recognition: one tag per word. Sources use IOB2, IOB1 or BIOES; inside the project all tags are IOB2.

A row has ``words`` and ``tags``. For augmentation, its text is the words joined by single spaces.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from seqeval.scheme import IOB2, Entities

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import log_count
from pipeline.tinybert.core.settings import Source, Table
from pipeline.tinybert.data.cells import BadRecordError, list_in_text, text_of
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.data.words import tokens
from pipeline.tinybert.models import piece_spans
from pipeline.tinybert.tasks import entity_offsets
from pipeline.tinybert.tasks.entity_offsets import OUTSIDE
from pipeline.tinybert.tasks.task import (
    Edit,
    Span,
    Task,
    balanced_weights,
    f1_of,
    occurrences,
    resampled_sums,
    splice,
)

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100  # the label that torch's cross-entropy ignores
LIST = re.compile(r"\[.*\]", re.DOTALL)
TAG = re.compile(r"O|[BIESLU]-[^\s-](\S*[^\s-])?")
AS_BIOES = {"U": "S", "L": "E"}  # of BILOU, as spaCy calls BIOES
FIELD = "text"  # the name of the text that augmentation edits


class NamedEntities(Task):
    source_settings: ClassVar = ("labels", "scheme", "text", "entities")
    loss: ClassVar = "soft_cross_entropy"
    metrics: ClassVar = ("f1", "precision", "recall")
    head_name: ClassVar = "AutoModelForTokenClassification"
    pipeline_tag: ClassVar = "token-classification"
    columns: ClassVar = {"words": "words", "tags": "tags"}
    target_fields: ClassVar = ("tags",)

    @classmethod
    def fields(cls, source: Table, labelled: bool) -> dict[str, str | None]:
        """A text and the offsets of its entities in place of words and tags, if the source has them."""
        if isinstance(source, Source) and source.entities is not None:
            return {"text": "text", **({"entities": None} if labelled else {})}
        if not isinstance(source, Source) and source.text is not None:
            return {"text": None}
        return super().fields(source, labelled)

    def parse_record(self, record: dict, source: Table, labelled: bool) -> Row:
        names = {str(value): name for name, value in (getattr(source, "labels", None) or {}).items()}
        if labelled and isinstance(source, Source) and source.entities is not None:
            return entity_offsets.parse(record, source.text or "text", source.entities, names)
        if not labelled and source.text is not None:
            return {"words": tokens(text_of(record, source.text))}
        column = source.words or self.columns["words"]
        words = _list(record[column], column)
        if not words:
            raise BadRecordError(f"column '{column}': empty: expected at least one word", "an empty sentence")
        for number, word in enumerate(words, 1):
            if not word.strip() or word != word.strip():
                raise BadRecordError(
                    f"word {number} is {word!r}: expected a word without spaces around it",
                    "a word that is empty or has spaces around it",
                )
        if not labelled:
            return {"words": words}
        assert isinstance(source, Source)
        column = source.tags or self.columns["tags"]
        tags = [names.get(tag, tag) for tag in _list(record[column], column)]
        if len(tags) != len(words):
            raise BadRecordError(
                f"{len(words)} words, {len(tags)} tags: expected one tag for each word", "not one tag for each word"
            )
        return {"words": words, "tags": to_iob2(words, tags, source.scheme or "IOB2")}

    def duplicate_key(self, row: Row) -> Any:
        return " ".join(row["words"])

    def labels_in(self, row: Row) -> list[str]:
        return [tag[2:] for tag in row["tags"] if tag != OUTSIDE]

    def label_names(self, train: list[Row], source: Source, key: str) -> list[str]:
        types = sorted({kind for row in train for kind in self.labels_in(row)})
        if not types:
            raise UserError(f"{key}: no entity in {len(train)} sentences: check `tags`")
        return [OUTSIDE, *(f"{mark}-{kind}" for kind in types for mark in "BI")]

    def summary(self, rows: list[Row]) -> str:
        counts = Counter(kind for row in rows for kind, _, _ in spans_of(row["tags"]))
        return ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))

    def encode(self, rows: list[Row], tokenizer, with_spans: bool = False) -> dict[str, list]:
        from pipeline.tinybert.models import checkpoints

        longest = min(self.max_length, tokenizer.model_max_length)
        sentences = [_without_empty_words(row["words"], tokenizer) for row in rows]
        encoded = tokenizer(sentences, is_split_into_words=True, truncation=True, max_length=longest)
        checkpoints.log_truncated(encoded, longest)
        first = [_first_pieces(encoded.word_ids(number)) for number in range(len(rows))]
        columns = {
            **encoded,
            "label_mask": [[word is not None for word in words] for words in first],
            "example": list(range(len(rows))),
        }
        if with_spans:
            starts = [[0, *np.cumsum([len(word) + 1 for word in row["words"]]).tolist()] for row in rows]
            columns["piece_spans"] = [piece_spans.spans(encoded, number, of) for number, of in enumerate(starts)]
        if rows and all("tags" in row for row in rows):
            index_of = {name: index for index, name in enumerate(self.labels)}
            columns["labels"] = [
                [IGNORED if word is None else index_of[row["tags"][word]] for word in words]
                for row, words in zip(rows, first, strict=True)
            ]
        return columns

    def align_logits(self, logits: Tensor, mask: Tensor, own: Tensor, first: Tensor, end: Tensor) -> Tensor:
        """By word: each word's first piece gets the logits of the word's first piece for the other model."""
        made = logits.new_full((*own.shape, logits.size(-1)), math.nan)
        for row, found in enumerate(logits):
            words = min(int(own[row].sum()), int(mask[row].sum()))  # a text that is cut has fewer
            made[row, own[row].nonzero()[:words, 0]] = found[mask[row]][:words]
        return made

    def class_weights(self, rows: list[Row]) -> list[float]:
        counts = Counter(tag for row in rows for tag in row["tags"])
        return balanced_weights([counts[name] for name in self.labels])

    def class_logits(self, outputs) -> Tensor:
        return outputs.logits

    def predictions(self, logits: list[np.ndarray], data: Any, rows: list[Row]) -> list[list[str]]:
        """One tag per word. Words cut off by truncation get the tag O."""
        predictions, cut = [], 0
        for row, values in zip(rows, logits, strict=True):
            tags = [self.labels[index] for index in values.argmax(axis=-1)]
            missing = len(row["words"]) - len(tags)
            cut += missing
            predictions.append([*tags, *[OUTSIDE] * missing])
        log_count(cut, sum(len(row["words"]) for row in rows), "words are cut off and count as no entity")
        return predictions

    def scorer(self, rows: list[Row], predictions: list[list[str]]) -> Callable[[np.ndarray], dict[str, float]]:
        """seqeval's strict precision, recall and F1 over all entities, and F1 by type."""
        types = sorted({name[2:] for name in self.labels if name != OUTSIDE})
        actual, predicted = [spans_of(row["tags"]) for row in rows], [spans_of(tags) for tags in predictions]
        correct = [one & other for one, other in zip(actual, predicted, strict=True)]
        by_row = [
            occurrences(([kind for kind, _, _ in found] for found in spans), types)
            for spans in (correct, actual, predicted)
        ]

        def score(chosen: np.ndarray) -> dict[str, Any]:
            correct, actual, predicted = by_type = [resampled_sums(counts, chosen) for counts in by_row]
            all_correct, all_actual, all_predicted = (counts.sum() for counts in by_type)
            return {
                "f1": _ratio(2 * all_correct, all_actual + all_predicted),
                "precision": _ratio(all_correct, all_predicted),
                "recall": _ratio(all_correct, all_actual),
                "f1_by_type": dict(zip(types, f1_of(correct, actual + predicted).tolist(), strict=True)),
            }

        return score

    def length(self, row: Row) -> int:
        return len(row["words"])

    def calibration(
        self, rows: list[Row], predictions: list[list[str]], logits: list[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """One entry per word. Words cut off by truncation have no logits and are left out."""
        from scipy.special import softmax

        correct = [
            actual == predicted
            for row, tags, values in zip(rows, predictions, logits, strict=True)
            for actual, predicted, _ in zip(row["tags"], tags, values, strict=False)
        ]
        return softmax(np.concatenate(logits), axis=-1).max(axis=-1), np.array(correct)

    def surest_mistakes(self, rows: list[Row], predictions: list[list[str]], logits: list[np.ndarray]) -> np.ndarray:
        confidence, correct = self.calibration(rows, predictions, logits)
        by_row = np.split(np.where(correct, 0.0, confidence), np.cumsum([len(values) for values in logits])[:-1])
        return np.array([mistakes.max(initial=0) for mistakes in by_row])

    def trivial_predictions(self, train: list[Row], rows: list[Row]) -> list[list[str]]:
        """No entity in any row."""
        return [[OUTSIDE] * len(row["words"]) for row in rows]

    def confusion(self, rows: list[Row], predictions: list[list[str]]) -> Iterator[tuple[str, str]]:
        """A pair of entity types for each word that is in an actual or predicted entity; "none" for the tag O."""
        for row, predicted_tags in zip(rows, predictions, strict=True):
            for pair in zip(row["tags"], predicted_tags, strict=True):
                if pair != (OUTSIDE, OUTSIDE):
                    actual, predicted = ("none" if tag == OUTSIDE else tag[2:] for tag in pair)
                    yield actual, predicted

    def replaceable_spans(self, row: Row) -> dict[str, tuple[str, list[Span]]]:
        """The words outside entities."""
        spans = _word_spans(row["words"])
        tags = row.get("tags", [OUTSIDE] * len(spans))
        return {
            FIELD: (" ".join(row["words"]), [span for span, tag in zip(spans, tags, strict=True) if tag == OUTSIDE])
        }

    def apply_edits(self, row: Row, field: str, edits: list[Edit]) -> Row:
        """Apply edits. An edit lies within one word outside entities, which keeps its tag, or replaces a whole entity,
        whose new words get tags of the same type.
        """
        words, tags = [], []
        for part_words, entity_type, part_edits in _parts(row, edits):
            if entity_type == OUTSIDE:
                words += part_words
                tags += [OUTSIDE] * len(part_words)
            else:
                new_words = part_edits[0][2].split(" ") if part_edits else part_words
                words += new_words
                tags += [f"B-{entity_type}", *[f"I-{entity_type}"] * (len(new_words) - 1)]
        return {**row, "words": words, "tags": tags} if "tags" in row else {**row, "words": words}

    def swap_candidates(self, train: Iterable[Row]) -> dict[str, list[str]]:
        """Entity type → the distinct entities of train."""
        entities: dict[str, dict[str, None]] = {}
        for row in train:
            for kind, start, end in sorted(spans_of(row["tags"]), key=lambda span: span[1]):
                entities.setdefault(kind, {}).setdefault(" ".join(row["words"][start:end]))
        return {kind: list(texts) for kind, texts in entities.items()}

    def draw_swaps(self, row: Row, others: dict[str, list[str]], probability: float, draw) -> dict[str, list[Edit]]:
        """Swap each entity with the given probability for another entity of its type."""
        spans, edits = _word_spans(row["words"]), []
        for kind, start, end in sorted(spans_of(row.get("tags", [])), key=lambda span: span[1]):
            text = " ".join(row["words"][start:end])
            if draw.random() < probability and others.get(kind, [text]) != [text]:
                while (new := draw.choice(others[kind])) == text:
                    pass
                edits.append((spans[start][0], spans[end - 1][1], new))
        return {FIELD: edits}


def spans_of(tags: list[str]) -> set[tuple[str, int, int]]:
    """The entities in IOB2 tags as (type, index of the first word, index after the last), in seqeval's strict mode."""
    return {(entity.tag, entity.start, entity.end) for entity in Entities([tags], IOB2).entities[0]}


def to_iob2(words: list[str], tags: list[str], scheme: str) -> list[str]:
    """Convert tags of a scheme to IOB2. Raises BadRecordError for tags outside the scheme and in an invalid order."""
    converted, before = [], OUTSIDE
    wrong_order = f"tags in an order that {scheme} does not allow"
    prefixes = {"IOB2": "BI", "IOB1": "BI", "BIOES": "BIES"}[scheme]
    for number, (word, tag) in enumerate(zip(words, tags, strict=True), 1):
        where = f"word {number} ({word}), tag '{tag}'"
        if scheme == "BIOES" and tag != OUTSIDE:
            tag = AS_BIOES.get(tag[:1], tag[:1]) + tag[1:]
        if tag.isdigit():
            raise BadRecordError(
                f"{where}: a number: name the tags in the source's `labels`: {{O: 0, B-TYPE: 1, …}}",
                "a tag that is a number",
            )
        if not TAG.fullmatch(tag) or (tag != OUTSIDE and tag[0] not in prefixes):
            raise BadRecordError(
                f"{where}: expected O or {' or '.join(f'{prefix}-TYPE' for prefix in prefixes)} (the source's `scheme`"
                f" is {scheme}; the schemes are IOB2, IOB1 and BIOES)",
                f"a tag that {scheme} does not have",
            )
        prefix, kind = tag[0], tag[2:]
        in_entity = before[0] in ("BI" if scheme == "BIOES" else "BIES") and before != OUTSIDE
        continues = in_entity and before[2:] == kind
        if scheme == "IOB1":
            if prefix == "B" and not continues:
                raise BadRecordError(
                    f"{where} after '{before}': not IOB1, the source's `scheme`: B- is only for an entity that directly"
                    " follows another of the same type",
                    wrong_order,
                )
        elif prefix in "IE" and not continues:
            raise BadRecordError(
                f"{where} after '{before}': not {scheme}, the source's `scheme`: the tag continues an entity that did"
                " not begin",
                wrong_order,
            )
        if scheme == "BIOES" and in_entity and not (prefix in "IE" and continues):
            raise BadRecordError(f"{where} after '{before}': not BIOES: the entity before it does not end", wrong_order)
        converted.append(OUTSIDE if tag == OUTSIDE else f"{'I' if prefix in 'IE' and continues else 'B'}-{kind}")
        before = tag
    if scheme == "BIOES" and before != OUTSIDE and before[0] in "BI":
        raise BadRecordError(
            f"word {len(words)} ({words[-1]}), tag '{before}': not BIOES: the entity does not end", wrong_order
        )
    return converted


def words_in_text(cell: str) -> list | None:
    """The list that a text holds, as pandas writes it to CSV, or the words between its blanks; None for a list that
    cannot be read.
    """
    if (found := list_in_text(cell)) is not None:
        return found
    return None if LIST.fullmatch(cell.strip()) else cell.split()


def _list(cell: Any, column: Any) -> list[str]:
    if isinstance(cell, str):
        cell = words_in_text(cell) or cell
    if not isinstance(cell, list | tuple | np.ndarray):
        raise BadRecordError(f"column '{column}': expected a list, found {type(cell).__name__}")
    for number, value in enumerate(cell, 1):
        if value is None or value != value:  # NaN differs from itself
            raise BadRecordError(
                f"column '{column}': value {number} is {value!r}: expected text",
                f"column '{column}': a value is not text",
            )
    return [str(value) for value in cell]


def _word_spans(words: list[str]) -> list[Span]:
    """The span of each word in the words joined by single spaces."""
    ends = np.cumsum([len(word) + 1 for word in words])
    return [(int(end) - len(word) - 1, int(end) - 1) for word, end in zip(words, ends, strict=True)]


def _without_empty_words(words: list[str], tokenizer) -> list[str]:
    """Replace words without a single word piece (a variation selector, for example) by the unknown token."""
    encoded = tokenizer(words, add_special_tokens=False)["input_ids"] if words else []
    return [word if pieces else tokenizer.unk_token for word, pieces in zip(words, encoded, strict=True)]


def _first_pieces(word_ids: list[int | None]) -> list[int | None]:
    """For each position: the index of the word that begins there; None elsewhere."""
    return [
        word if word is not None and word != before else None
        for word, before in zip(word_ids, [None, *word_ids], strict=False)
    ]


def _parts(row: Row, edits: list[Edit]) -> Iterator[tuple[list[str], str, list[Edit]]]:
    """The parts of a row, each an entity or one word outside entities, as (words, entity type or O, edits of the part).

    Edits are applied to the words outside entities, but not to entities.
    """
    spans = _word_spans(row["words"])
    entities = {start: (kind, end) for kind, start, end in spans_of(row.get("tags", []))}
    first = 0
    while first < len(spans):
        kind, after = entities.get(first, (OUTSIDE, first + 1))
        start, end = spans[first][0], spans[after - 1][1]
        part_edits = [edit for edit in edits if start <= edit[0] and edit[1] <= end]
        words = row["words"][first:after]
        if kind == OUTSIDE:
            words = [splice(words[0], [(low - start, high - start, new) for low, high, new in part_edits])]
        yield words, kind, part_edits
        first = after


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0
