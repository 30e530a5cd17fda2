"""Guess the kind of task of a file, and which columns it reads."""

from collections.abc import Callable
from typing import Any

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.guessing.columns import WITH_COMMA, Columns, Guess, UnfitError, is_number, named, quoted, words
from pipeline.tinybert.guessing.multi_label import multi_label
from pipeline.tinybert.guessing.named_entities import named_entities
from pipeline.tinybert.guessing.question_answering import question_answering
from pipeline.tinybert.guessing.texts import regression, text_classification
from pipeline.tinybert.tasks import KINDS

WORDS_OF_A_TEXT = 3  # the name of a column has fewer, if it is not a text
# A first line with one of these and a number is a header, and not a row.
NAMES_OF_TEXTS = ("text", "sentence", "review", "message", "tweet", "comment", "content", "body", "title", "headline",
                  "description", "document", "utterance", "question", "query", "post", "email", "sms", "abstract",
                  "summary", "phrase", "passage", "premise", "answer", "feedback")  # fmt: skip
GUESSES: dict[str, Callable[[Columns], Guess]] = {
    "question_answering": question_answering,
    "named_entities": named_entities,
    "multi_label": multi_label,
    "regression": regression,
    "text_classification": text_classification,
}  # kinds that a file shows clearly come first
AMBIGUOUS_KINDS = ("regression", "text_classification")  # a file may fit both


def guess(records: list[dict], chosen: dict[str, Any], kind: str | None, group: Any = None) -> tuple[str, Guess]:
    """The kind of task, and a guess for it. Without a given kind, the first of question_answering, named_entities,
    multi_label that fits wins. Otherwise exactly one of regression and text_classification must fit.

    chosen: source key → the user's value, which the guess keeps. kind: None: it is guessed too. group: the column of
    `source.group`, which is read besides.
    """
    columns = Columns(records, chosen, kind_is_given=kind is not None, group=group)
    if kind:
        fit = GUESSES[kind](columns)
        _check_header(fit, columns)
        return kind, fit
    found: dict[str, Guess] = {}
    errors = []
    for name in GUESSES:
        try:
            if set(chosen) <= {*KINDS[name].columns, *KINDS[name].source_settings}:
                found[name] = GUESSES[name](columns)
        except UnfitError:
            continue
        except UserError as error:
            if name not in AMBIGUOUS_KINDS:
                raise
            errors.append(error)
        if found and name not in AMBIGUOUS_KINDS:
            break
    if len(found) == 1:
        name, fit = found.popitem()
        _check_header(fit, columns)
        return name, fit
    if not found:
        if errors:
            raise errors[0]
        for name in columns.names:
            if number := columns.localised_number(name):
                raise UserError(f"--file: column {quoted(name)} has {WITH_COMMA.format(number)}")
    fits = " and ".join(found) or f"no kind of task (the columns are {', '.join(map(str, columns.names))})"
    raise UserError(f"--kind: the file fits {fits}: give --kind with one of {', '.join(found or GUESSES)}")


def _check_header(guess: Guess, columns: Columns) -> None:
    """Raise UserError if the file seems to have no header: its column names look like a row (the name of the label
    column is one of its values, or a number within their range).
    """
    label, text = guess.source.get("label"), str(guess.source.get("text"))
    if "label" in columns.chosen or not isinstance(label, str):
        return
    numbers = columns.numbers(label) if is_number(label) else []
    is_number_of_rows = bool(numbers) and min(numbers) <= float(label) <= max(numbers)
    if label.strip() not in columns.counts.get(label, ()) and not is_number_of_rows:
        return
    is_usual = is_number(text) or bool(named([text], *NAMES_OF_TEXTS))
    is_row = words(text) >= WORDS_OF_A_TEXT or text.rstrip().endswith((".", "!", "?"))
    if is_row or (is_number(label) and not is_usual):
        raise UserError(
            f"--file: the first line looks like a row ('{text[:40]}', '{label}'), not like the names of the columns:"
            " write a line with names above it, such as text,label, or give --label if it has the names"
        )
