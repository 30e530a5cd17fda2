"""A guess of questions with a passage and answers."""

from typing import Any

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.data.cells import flat
from pipeline.tinybert.guessing.columns import Columns, Guess, Reason, is_empty, is_list, named, nearly_all, quoted

LONGEST_WINDOW = 384  # word pieces of a passage that are read at once; longer ones are read in several windows


def question_answering(columns: Columns) -> Guess:
    with_answers = [name for name in columns.names if _holds_answers([row[name] for row in columns.records])]
    texts = columns.text_columns()
    if not with_answers and named(texts, "question") and named(texts, "context", "passage"):
        raise UserError(
            "answers: the file has questions and passages, but no column with answers and their answer_start: expected"
            " {text: […], answer_start: […]}"
        )
    answers = columns.chosen.get("answers") or columns.pick_column(
        "answers", with_answers, ("answers", "answer"), "answers with their answer_start"
    )
    if answers not in with_answers:
        raise columns.cannot_guess("answers", f"column '{answers}' does not hold answers with their answer_start")
    question: Any = columns.chosen.get("question") or columns.pick_column(
        "question", named(texts, "question", "query"), (), "questions"
    )
    passages = [name for name in texts if name not in flat([question])]
    passage = columns.chosen.get("passage") or (named(passages, "context", "passage") or passages or [None])[0]
    if passage is None:
        raise columns.cannot_guess("passage", "no column holds passages")
    rows = columns.records
    without = sum(
        is_empty(row[answers]) or (_is_answers(row[answers]) and not _has_answer(row[answers])) for row in rows
    )
    which = ", ".join(map(quoted, flat([question, passage, answers])))
    reasons = [
        Reason("question, passage, answers", f"columns {which} ({len(rows)} questions)"),
        Reason("unanswerable", f"{'true' if without else 'false'} ({without} questions have no answer)"),
    ]
    source = {"question": question, "passage": passage, "answers": answers}
    both = [" ".join(str(row[name]) for name in flat([question, passage])) for row in rows]
    return Guess(source, reasons, both, "f1", {"unanswerable": True} if without else None, LONGEST_WINDOW)


def _holds_answers(cells: list) -> bool:
    """Whether most cells are answers: of those that are not empty, and of those that are no empty lists either."""
    cells = [cell for cell in cells if not is_empty(cell)]
    not_empty = [cell for cell in cells if not (is_list(cell) and len(cell) == 0)]
    return nearly_all(_is_answers, cells) and nearly_all(_is_answers, not_empty) and any(map(_has_answer, cells))


def _is_answers(cell: Any) -> bool:
    if isinstance(cell, dict):
        return cell.keys() >= {"text", "answer_start"}
    return is_list(cell, dict) and all("answer_start" in answer for answer in cell)


def _has_answer(cell: Any) -> bool:
    if is_list(cell, dict):
        return any(answer.get("text") != "" for answer in cell)
    found = cell["text"] if isinstance(cell, dict) and _is_answers(cell) else cell
    return found != "" and (isinstance(found, str) or (is_list(found) and len(found) > 0 and list(found) != [""]))
