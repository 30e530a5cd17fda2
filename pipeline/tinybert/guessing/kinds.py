"""One function for each kind of task: it guesses which columns of a file hold what, or raises UserError."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import combinations
from typing import Any

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import first_ten
from pipeline.tinybert.data.cells import BadRecordError, flat
from pipeline.tinybert.guessing.columns import (
    LISTS,
    LOCAL_NUMBER,
    MOST_CELLS,
    MOST_CLASSES,
    ROWS_OF_A_CLASS,
    Columns,
    Guess,
    UnfitError,
    are_partners,
    has_fractions,
    is_list,
    is_number,
    listed,
    most,
    named,
    words,
)
from pipeline.tinybert.tasks import KINDS
from pipeline.tinybert.tasks.entity_offsets import OUTSIDE, Entity, entities_in
from pipeline.tinybert.tasks.multi_label import OFF, ON
from pipeline.tinybert.tasks.named_entities import TAG, to_iob2

LABEL = ("label", "class", "category", "target", "sentiment", "intent", "topic", "gold", "stars", "rating")
LABELS = ("labels", "label", "tags", "tag", "categories", "category", "genres", "genre", "topics", "topic", "emotions",
          "emotion", "classes")  # fmt: skip
SCORE = ("score", "similarity", "rating", "label", "stars", "target", "value", "gold")
MOST_GRADES = 20  # whole numbers with more values than this are scores, not classes
LONGEST_WINDOW = 384  # word pieces of a passage that are read at once; longer ones are read in several windows
RARE = 0.2  # share of the rarest class under which accuracy hides it
SEPARATORS = ("|", ";", ",", "/")
SHARE_WITH_SEPARATOR = 0.05  # of the rows, at least
WORDS_OF_A_LABEL = 4
WORDS_OF_A_TEXT = 3  # the name of a column has fewer, if it is not a text
CHUNKS = {"NP", "VP", "PP", "ADVP", "ADJP", "SBAR", "PRT", "CONJP", "INTJ", "LST", "UCP"}  # phrases, as in CoNLL-2000
WORDS_SHOWN = 5
WORD_NUMBER = re.compile(r"\d+([-.]\d+)?")  # 5, 5-6 or 5.1, as in CoNLL-U
WITH_COMMA = "numbers such as '{}': write them with a point and without %"


def guess(records: list[dict], chosen: dict[str, Any], kind: str | None) -> tuple[str, Guess]:
    """The kind of task, and a guess for it.

    chosen: source key → the user's value, which the guess keeps. kind: None: it is guessed too.
    """
    if kind:
        columns = Columns(records, chosen, sure=True)
        return kind, _with_header(GUESSES[kind](columns), columns)
    columns, found, undecided = Columns(records, chosen, sure=False), {}, []
    for name in GUESSES:
        try:
            if set(chosen) <= {*KINDS[name].columns, *KINDS[name].source_settings}:
                found[name] = GUESSES[name](columns)
        except UnfitError:
            continue
        except UserError as error:
            if name not in PLAIN:
                raise
            undecided.append(error)
        if found and name not in PLAIN:
            break
    if len(found) == 1:
        name, fit = found.popitem()
        return name, _with_header(fit, columns)
    if undecided and not found:
        raise undecided[0]
    if not found and (with_comma := columns.with_local_numbers()):
        raise UserError(f"--file: column {_quoted(with_comma[0])} has {WITH_COMMA.format(with_comma[1])}")
    fits = " and ".join(found) or f"no kind of task (the columns are {', '.join(map(str, columns.names))})"
    raise UserError(f"--kind: the file fits {fits}: give --kind with one of {', '.join(found or GUESSES)}")


def _with_header(guess: Guess, columns: Columns) -> Guess:
    """The guess. Raises UserError if the names of its columns look like a row, whose label is that of other rows."""
    label, text = guess.source.get("label"), str(guess.source.get("text"))
    if "label" in columns.chosen or not isinstance(label, str):
        return guess
    if label.strip() not in columns.counts.get(label, ()) and not (is_number(label) and columns.numbers(label)):
        return guess
    if words(text) >= WORDS_OF_A_TEXT or text.rstrip().endswith((".", "!", "?")):
        raise UserError(
            f"--file: the first line looks like a row ('{text[:40]}', '{label}'), not like the names of the columns:"
            " write a line with names above it, such as text,label"
        )
    return guess


def text_classification(columns: Columns) -> Guess:
    label = columns.chosen.get("label") or _column_of_classes(columns)
    if isinstance(label, list):
        raise columns.cannot_guess("label", "several columns, of which only multi_label reads labels")
    counts = columns.counts.get(label, Counter())
    written = [value for value in counts if not value.lstrip("-").isdigit()]
    if written and all(map(LOCAL_NUMBER.fullmatch, counts)):
        raise UserError(f"label: column '{label}' has {WITH_COMMA.format(written[0])}")
    if len(counts) < 2 or not (columns.sure or label in columns.with_classes()):
        raise columns.cannot_guess("label", f"column '{label}' does not hold a few different values")
    source, reasons, texts = _texts(columns, [label])
    others = [name for name in columns.with_classes() if name not in (label, *flat(source.values()))]
    reasons.append(f"label: column '{label}' ({_why(columns, label, others)}{len(counts)} values: {listed(counts)})")
    if others:
        which = first_ten(list(map(_quoted, others)), ", ")
        reasons.append(f"not read: {which}: classes, too: --label names the column that is the label")
    if columns.numbers(label):
        reasons.append("labels: the classes have numbers as names; `source.labels` in params.yaml can give others")
        if len(counts) > 2:
            reasons.append("kind: if the numbers are a scale, --kind regression learns their order")
    rarest, count = counts.most_common()[-1]
    share = count / counts.total()
    metric = "macro_f1" if share < min(RARE, 1 / len(counts) / 2) else "accuracy"
    reasons.append(f"metric: {metric} (the rarest class, {rarest}, has {100 * share:.0f} % of the rows)")
    return Guess({**source, "label": label}, reasons, texts, metric)


def _why(columns: Columns, label: Any, others: list) -> str:
    """The reason why a column of labels was chosen, with a comma; empty if there was no choice."""
    return "as given, " if "label" in columns.chosen else "by its name, " if others else ""


def _column_of_classes(columns: Columns) -> Any:
    classes = columns.with_classes()
    by_name = [name for name in columns.counts if str(name).lower() in LABEL]
    if not columns.sure and by_name and not set(by_name) & set(classes) and not columns.numbers(by_name[0]):
        count = len(columns.counts[by_name[0]])
        why = f"column '{by_name[0]}' has {count} different values in {len(columns.records)} rows, too many for classes"
        raise columns.cannot_guess("label", why)
    return _one_of(columns, "label", classes, LABEL, "a few different values")


def regression(columns: Columns) -> Guess:
    scores = [name for name in columns.names if len(columns.numbers(name)) > 1]
    if not columns.sure:  # stars from 1 to 5 may be classes
        scores = [name for name in scores if _is_fine_grained(columns.numbers(name))]
    ids = [name for name in scores if len(columns.numbers(name)) == len(columns.records)]
    candidates = [name for name in scores if name not in ids or has_fractions(columns.numbers(name))]
    if not columns.sure:  # a number of any other name may be anything
        candidates = named(candidates, *SCORE)
    label = columns.chosen.get("label") or _one_of(columns, "label", candidates, SCORE, "different numbers")
    if isinstance(label, list):
        raise columns.cannot_guess("label", "several columns, of which only multi_label reads labels")
    values = columns.most_numbers(label) if columns.sure else columns.numbers(label) if label in scores else []
    if len(values) < 2:
        example = next((value for value in columns.counts.get(label, ()) if not is_number(value)), None)
        found = f": '{example}' is no number" if example else ""
        raise columns.cannot_guess("label", f"column '{label}' does not hold different numbers{found}")
    source, reasons, texts = _texts(columns, [label])
    reasons.append(f"label: column '{label}' (numbers from {min(values):g} to {max(values):g})")
    return Guess({**source, "label": label}, reasons, texts, "pearson_spearman")


def multi_label(columns: Columns) -> Guess:
    label, separator, counts = _labels(columns)
    rivals = [name for name in columns.with_classes() if str(name).lower() in LABEL and name not in flat([label])]
    if rivals and not columns.sure and "label" not in columns.chosen and str(label).lower() not in ("label", "labels"):
        raise UserError(
            f"--kind: column {_quoted(rivals[0])} holds classes, and several labels are in"
            f" {', '.join(map(_quoted, flat([label])))}: give --kind text_classification or --kind multi_label"
        )
    several = label if isinstance(label, list) else [label]
    source, reasons, texts = _texts(columns, several)
    form = f"{len(several)} columns of 0 and 1: {', '.join(several)}" if several is label else f"column '{label}'"
    between = f", '{separator}' between them" if separator else ""
    reasons.append(f"label: {form} ({len(counts)} labels{between}: {listed(counts)})")
    source |= {"label": label, **({"separator": separator} if separator else {})}
    return Guess(source, reasons, texts, "micro_f1")


def named_entities(columns: Columns) -> Guess:
    if {"data", "annotations"} <= set(columns.names) and all(isinstance(cell, dict) for cell in columns.cells("data")):
        raise UserError("--file: this is Label Studio's full export: export as JSON-MIN, with text and label")
    given = {"words", "tags"} & columns.chosen.keys()
    offsets = [] if given else [name for name in columns.names if _has_entities(columns, name)]
    if "entities" in columns.chosen or offsets:
        return _entities_by_offsets(columns, offsets)
    return _tagged_words(columns)


def _entities_by_offsets(columns: Columns, candidates: list) -> Guess:
    entities = columns.chosen.get("entities") or _one_of(columns, "entities", candidates, LABELS, "entities")
    found, errors = _entities_of(columns, entities)  # `prepare` names the rows with an error
    if not found:
        why = str(errors[0]) if errors else f"column {_quoted(entities)} holds no entity"
        raise columns.cannot_guess("entities", why)
    texts = columns.texts([entities])
    text = columns.chosen.get("text") or _one_of(columns, "text", texts, ("text",), "texts")
    if isinstance(text, list):
        raise columns.cannot_guess("text", "the entities count the characters of one column")
    types = Counter(entity.type for entity in found)
    reasons = [
        f"text: column {_quoted(text)} (median length {columns.median_length(text):.0f} words)",
        f"entities: column {_quoted(entities)} ({len(found)} entities by their characters: {listed(types)})",
    ]
    if others := [name for name in columns.with_classes() if name not in (text, "answer")]:
        reasons.append(f"not read: {first_ten(list(map(_quoted, others)), ', ')}: --kind reads classes instead")
    return Guess({"text": text, "entities": entities}, reasons, [str(row[text]) for row in columns.records], "f1")


def _has_entities(columns: Columns, column: Any) -> bool:
    """Whether most cells are lists of entities with their offsets, and not all lists are empty. Unless the kind is
    given, three numbers are no entity.
    """
    found, errors = _entities_of(columns, column)
    fits = len(errors) <= (1 - MOST_CELLS) * len(columns.cells(column))
    return bool(found) and fits and (columns.sure or not any(entity.type.isdecimal() for entity in found))


def _entities_of(columns: Columns, column: Any) -> tuple[list[Entity], list[BadRecordError]]:
    """The entities of a column with their offsets, and the errors of cells without."""
    found, errors = [], []
    for cell in columns.cells(column):
        try:
            found += entities_in(cell, column)
        except BadRecordError as error:
            errors.append(error)
    return found, errors


def _tagged_words(columns: Columns) -> Guess:
    lists = {name: list(filter(is_list, columns.cells(name))) for name in _columns_of_lists(columns)}
    tagged = [name for name, cells in lists.items() if _is_tagged(cells)]
    is_conll = all(isinstance(name, int) for name in columns.names)
    for name, values in columns.counts.items():
        if OUTSIDE in values and len(values) > 1 and all(map(TAG.fullmatch, values)):
            raise UserError(
                f"tags: column '{name}' has one tag in each row: write a .conll file, with a word and its tag on each"
                " line and a blank line after each sentence"
            )
    if is_conll and not tagged:
        found = (str(tag) for row in columns.cells(columns.names[-1]) for tag in row)
        odd = next((tag for tag in found if not TAG.fullmatch(tag)), OUTSIDE)
        raise UserError(
            f"tags: the last column has {'only ' if odd == OUTSIDE else ''}'{odd}': expected O, B-TYPE and I-TYPE, in"
            " the scheme BIOES also E-TYPE and S-TYPE (or L-TYPE and U-TYPE)"
        )
    of_entities = [name for name in tagged if not _types(lists[name]) <= CHUNKS] or tagged
    tags = columns.chosen.get("tags") or _one_of(
        columns,
        "tags",
        of_entities[-1:] if is_conll else of_entities,
        ("ner",),
        "lists of tags (O, B-TYPE, I-TYPE; numbers need an entry by hand, with `labels`)",
    )
    others = [name for name, cells in lists.items() if name not in (*tagged, tags) and _is_words(cells)]
    given = columns.chosen.get("words")
    word = given or _one_of(columns, "words", others[:1] if is_conll else others, ("words", "tokens"), "lists of words")
    for key, name in (("words", word), ("tags", tags)):
        if name not in lists:
            raise columns.cannot_guess(key, f"column {_quoted(name)} does not hold lists")
    rows = [
        ([str(cell) for cell in row[word]], [str(cell) for cell in row[tags]])
        for row in columns.records
        if is_list(row[word]) and is_list(row[tags])
    ]
    in_entities = [tag for _, row in rows for tag in row if tag != OUTSIDE]
    begins = [tag for tag in in_entities if tag[0] in "BSU"]
    types = Counter(tag[2:] for tag in begins or in_entities)
    schemes = {scheme: sum(not _is_valid(*row, scheme) for row in rows) for scheme in ("IOB2", "IOB1", "BIOES")}
    scheme = columns.chosen.get("scheme") or min(schemes, key=schemes.__getitem__)
    reasons = [
        f"words: column {_quoted(word)} ({' '.join(rows[0][0][:WORDS_SHOWN])} …)",
        f"tags: column {_quoted(tags)} ({len(types)} types: {listed(types)})",
        f"scheme: {scheme} ({len(rows) - schemes[scheme]} of {len(rows)} sentences follow it)",
    ]
    return Guess({"words": word, "tags": tags, "scheme": scheme}, reasons, [" ".join(row) for row, _ in rows], "f1")


def question_answering(columns: Columns) -> Guess:
    with_answers = [
        name
        for name in columns.names
        if most(_is_answers, cells := [row[name] for row in columns.records]) and any(map(_has_answer, cells))
    ]
    texts = columns.texts()
    if not with_answers and named(texts, "question") and named(texts, "context", "passage"):
        raise UserError(
            "answers: the file has questions and passages, but no column with answers and their answer_start: expected"
            " {text: […], answer_start: […]}, in JSON Lines or Parquet"
        )
    answers = columns.chosen.get("answers") or _one_of(
        columns, "answers", with_answers, ("answers", "answer"), "answers with their answer_start"
    )
    if answers not in with_answers:
        raise columns.cannot_guess("answers", f"column '{answers}' does not hold answers with their answer_start")
    question: Any = columns.chosen.get("question") or _one_of(
        columns, "question", named(texts, "question", "query"), (), "questions"
    )
    passages = [name for name in texts if name not in flat([question])]
    passage = columns.chosen.get("passage") or (named(passages, "context", "passage") or passages or [None])[0]
    if passage is None:
        raise columns.cannot_guess("passage", "no column holds passages")
    rows = columns.records
    without = sum(_is_answers(row[answers]) and not _has_answer(row[answers]) for row in rows)
    which = ", ".join(map(_quoted, flat([question, passage, answers])))
    reasons = [
        f"question, passage, answers: columns {which} ({len(rows)} questions)",
        f"unanswerable: {'true' if without else 'false'} ({without} questions have no answer)",
    ]
    source = {"question": question, "passage": passage, "answers": answers}
    both = [" ".join(str(row[name]) for name in flat([question, passage])) for row in rows]
    return Guess(source, reasons, both, "f1", {"unanswerable": True} if without else None, LONGEST_WINDOW)


GUESSES: dict[str, Callable[[Columns], Guess]] = {
    "question_answering": question_answering,
    "named_entities": named_entities,
    "multi_label": multi_label,
    "regression": regression,
    "text_classification": text_classification,
}  # kinds that a file shows clearly come first
PLAIN = ("regression", "text_classification")  # a file may fit both


def _one_of(columns: Columns, key: str, candidates: list, names: Iterable[str], what: str) -> Any:
    """The only candidate, or the only one with such a name; else UserError."""
    best = named(candidates, *names) or candidates
    if len(best) == 1:
        return best[0]
    if not best:
        raise columns.cannot_guess(key, f"no column holds {what}", UnfitError)
    raise columns.cannot_guess(key, f"columns {', '.join(map(_quoted, best))} hold {what}")


def _is_fine_grained(numbers: list[float]) -> bool:
    return len(numbers) > MOST_GRADES or has_fractions(numbers)


def _texts(columns: Columns, without: Iterable[Any]) -> tuple[dict[str, Any], list[str], list[str]]:
    """Source keys `text` and, for a pair, `pair`; the reasons; the text(s) of each row."""
    candidates = columns.texts(without)
    chosen: dict[str, Any] = {key: columns.chosen[key] for key in ("text", "pair") if key in columns.chosen}
    in_order = [name for name in columns.names if name in candidates]
    pairs = [pair for pair in combinations(in_order, 2) if are_partners(*pair)]
    if "text" in chosen:
        source, reason = chosen, "as given"
    elif len(pairs) == 1 and not chosen:
        source, reason = {"text": pairs[0][0], "pair": pairs[0][1]}, "a pair, by their names"
    else:
        candidates = [name for name in candidates if name not in flat(chosen.values())]
        if not candidates:
            raise columns.cannot_guess("text", "no column holds texts of several words", UnfitError)
        longest, *others = candidates
        if rivals := [name for name in others if 3 * columns.median_length(name) > columns.median_length(longest)]:
            which = ", ".join(map(_quoted, [longest, *rivals]))
            raise columns.cannot_guess(
                "text",
                f"columns {which} hold texts (--text A B joins them, --text A --pair B reads pairs, --text A one only)",
            )
        source, reason = {"text": longest, **chosen}, "the longest texts" if others else "the only texts"
    names = flat(source.values())
    median = " and ".join(f"{columns.median_length(name):.0f}" for name in names)
    which = " and ".join(map(_quoted, names))
    reasons = [f"{', '.join(source)}: {which} ({reason}; median length {median} words)"]
    takes_more = "pair" not in chosen and not isinstance(source["text"], list)
    for name in columns.texts([*without, *names]) if takes_more else ():
        reasons.append(
            f"not read: '{name}' (median length {columns.median_length(name):.0f} words): --pair '{name}' reads it as a"
            f" second text, --text '{name}' '{names[0]}' joins both"
        )
    return source, reasons, [" ".join(str(row[name]) for name in names) for row in columns.records]


def _labels(columns: Columns) -> tuple[Any, str | None, Counter]:
    """The column(s) of labels, the separator between labels in a cell (or None), and how often each label occurs."""
    chosen = columns.chosen.get("label")
    if several := chosen if isinstance(chosen, list) else [] if chosen else _columns_of_0_and_1(columns):
        return several, None, Counter({name: _count_on(columns.counts.get(name, Counter())) for name in several})
    if lists := _lists_of_labels(columns, chosen):
        label = _one_of(columns, "label", lists, LABELS, "lists")
        return label, None, Counter(str(value) for cell in columns.cells(label) if is_list(cell) for value in cell)
    given = columns.chosen.get("separator")
    for name in [chosen] if chosen else named(columns.counts, *LABELS):
        cells = columns.counts.get(name, Counter())
        if chosen and given and cells:
            return name, given, _labels_between(cells, given)
        for separator in [given] if given else SEPARATORS:
            if _is_separator(separator, cells, columns.sure or bool(given)):
                return name, separator, _labels_between(cells, separator)
    if chosen:
        which = ", ".join(SEPARATORS)
        raise UnfitError(
            f"label: column '{chosen}' has no lists, and not several short labels in a cell with one of {which} between"
            " them: give --separator, or --label COLUMN COLUMN for columns of 0 and 1"
        )
    raise columns.cannot_guess(
        "label", "no column holds several labels (a list, or a text with separators)", UnfitError
    )


def _columns_of_0_and_1(columns: Columns) -> list[Any]:
    """Columns with one label each; none if there are too few, or another column holds classes. A blank cell is a 0."""
    rows = len(columns.records)
    binary = [
        name
        for name, counts in columns.counts.items()
        if _is_binary(counts) and (len(counts) > 1 or 0 < _count_on(counts) < rows)
    ]
    if len(binary) < (2 if columns.sure else 3) or {str(name).lower() for name in binary} & {*LABEL}:
        return []
    classes = [] if columns.sure else named(set(columns.with_classes()) - set(binary), *LABEL)
    return [] if classes or _lists_of_labels(columns, None) else binary


def _is_binary(counts: Counter) -> bool:
    return {value.lower() for value in counts} <= {*ON, *OFF}


def _count_on(counts: Counter) -> int:
    return sum(count for value, count in counts.items() if value.lower() in ON)


def _lists_of_labels(columns: Columns, chosen: Any) -> list[Any]:
    """The columns of lists that may be the labels. Raises UserError for entities with their offsets."""
    lists = _columns_of_lists(columns)
    if chosen is not None:
        lists = [name for name in lists if name == chosen]
    elif not columns.sure:  # the words of a text may be a list too, and `label` with one class in each list is no set
        lists = [name for name in named(lists, *LABELS) if not (name in columns.counts and str(name).lower() in LABEL)]
    for name in lists:
        if any(isinstance(value, (*LISTS, dict)) for cell in columns.cells(name) if is_list(cell) for value in cell):
            raise UserError(
                f"label: column '{name}' has lists or objects in its lists: for entities with their offsets, give"
                f" --kind named_entities --entities '{name}'"
            )
    return lists


def _columns_of_lists(columns: Columns) -> list[Any]:
    """Columns of lists that are not all empty."""
    return [
        name
        for name in columns.names
        if most(is_list, columns.cells(name)) and any(is_list(cell) and len(cell) for cell in columns.cells(name))
    ]


def _labels_between(cells: Counter, separator: str) -> Counter:
    """How often each label occurs if ``separator`` separates labels in the cells."""
    labels: Counter = Counter()
    for cell, count in cells.items():
        for label in filter(None, map(str.strip, cell.split(separator))):
            labels[label] += count
    return labels


def _is_separator(separator: str, cells: Counter, is_sure: bool) -> bool:
    """Whether ``separator`` separates labels in the cells. Not ``is_sure``: it may belong to the names of classes, such
    as "Sci/Tech", of which there are fewer than of their parts.
    """
    labels = _labels_between(cells, separator)
    several = sum(count for cell, count in cells.items() if separator in cell)
    is_few = len(labels) <= min(MOST_CLASSES, labels.total() / ROWS_OF_A_CLASS)
    is_short = all(words(label) <= WORDS_OF_A_LABEL for label in labels)
    is_in_use = 0 < several >= SHARE_WITH_SEPARATOR * cells.total()
    return is_in_use and is_few and is_short and (is_sure or len(labels) <= len(cells))


def _is_tagged(cells: list) -> bool:
    tags = {str(tag) for cell in cells for tag in cell} - {OUTSIDE}
    return bool(tags) and all(map(TAG.fullmatch, tags))


def _types(cells: list) -> set[str]:
    return {str(tag)[2:] for cell in cells for tag in cell if tag != OUTSIDE}


def _is_words(cells: list) -> bool:
    """Whether lists hold words: not numbers of words, and not the same in all of a list, such as a sentence's name."""
    values = [value for cell in cells for value in cell]
    is_same = all(len(set(map(str, cell))) == 1 for cell in cells) and len(values) > len(cells)
    return all(isinstance(value, str) for value in values) and not most(WORD_NUMBER.fullmatch, values) and not is_same


def _is_valid(row: list[str], tags: list[str], scheme: str) -> bool:
    try:
        to_iob2(row, tags, scheme)
    except (BadRecordError, ValueError):
        return False
    return True


def _is_answers(cell: Any) -> bool:
    if isinstance(cell, dict):
        return cell.keys() >= {"text", "answer_start"}
    return is_list(cell, dict) and all("answer_start" in answer for answer in cell)


def _has_answer(cell: Any) -> bool:
    found = cell["text"] if isinstance(cell, dict) and _is_answers(cell) else cell
    return isinstance(found, str) or (is_list(found) and len(found) > 0)


def _quoted(column: Any) -> str:
    return str(column) if isinstance(column, int) else f"'{column}'"
