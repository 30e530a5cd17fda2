"""Entities as character offsets become words and tags, or a message with the row."""

import json

import pytest
import tiny

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.settings import Source, Text
from pipeline.tinybert.preparation.records import parse_records
from pipeline.tinybert.tasks.named_entities import spans_of

TASK = tiny.task(["O", "B-PER", "I-PER"], "f1", kind="named_entities")
TEXT = 'Ada Lovelace met "Babbage" in London.'
WORDS = ["Ada", "Lovelace", "met", '"', "Babbage", '"', "in", "London", "."]
PEOPLE = [[0, 12, "PER"], [18, 25, "PER"], [30, 36, "LOC"]]


def read(*cells, text=TEXT, **source):
    records = [(f"rows.jsonl, line {number}", {"text": text, "label": cell}) for number, cell in enumerate(cells, 1)]
    return parse_records(TASK, records, Source(location="x", entities="label", **source), "tasks.tiny.source")


@pytest.mark.parametrize(
    "cell",
    [
        pytest.param(PEOPLE, id="doccano"),
        pytest.param(json.dumps(PEOPLE), id="a list as text in CSV"),
        pytest.param([[float(a), str(b), c] for a, b, c in PEOPLE], id="offsets as floats and as text"),
        pytest.param({"entities": [tuple(entity) for entity in PEOPLE]}, id="spacy"),
        pytest.param([{"id": 7, "start_offset": a, "end_offset": b, "label": c} for a, b, c in PEOPLE], id="relations"),
        pytest.param([{"start": a, "end": b, "label": c, "token_start": 0} for a, b, c in PEOPLE], id="prodigy"),
        pytest.param(
            [{"start": a, "end": b, "text": TEXT[a:b], "labels": [c]} for a, b, c in reversed(PEOPLE)],
            id="label studio, in another order",
        ),
    ],
)
def test_every_form_becomes_the_same_words_and_tags(cell, capsys):
    [row] = read(cell)
    assert row["words"] == WORDS
    assert row["tags"] == ["B-PER", "I-PER", "O", "O", "B-PER", "O", "O", "B-LOC", "O"]
    assert "repaired" not in capsys.readouterr().out


def test_offsets_count_blanks_at_the_start_of_the_text():
    [row] = read([[start + 3, end + 3, kind] for start, end, kind in PEOPLE], text=f" \n {TEXT} ")
    assert spans_of(row["tags"]) == {("PER", 0, 2), ("PER", 4, 5), ("LOC", 7, 8)}


def test_blanks_around_an_entity_do_not_count():
    [row] = read([[0, 13, "PER"], [29, 36, "LOC"]])
    assert spans_of(row["tags"]) == {("PER", 0, 2), ("LOC", 7, 8)}


def test_adjacent_entities_of_one_type_stay_two():
    [row] = read([[0, 3, "PER"], [4, 12, "PER"]])
    assert row["tags"][:2] == ["B-PER", "B-PER"]


def test_types_get_their_names_from_labels():
    [row] = read([[0, 12, 1], [30, 36, "GPE"]], labels={"person": 1, "place": "GPE"})
    assert spans_of(row["tags"]) == {("person", 0, 2), ("place", 7, 8)}


def test_a_row_whose_tags_differ_from_the_file_is_listed(capsys):
    rows = read(
        [[0, 6, "PER"]],
        None,
        [{"start": 2, "end": 14, "text": "Ada Lovelace", "label": "PER"}],
    )
    assert [spans_of(row["tags"]) for row in rows] == [{("PER", 0, 2)}, set(), {("PER", 0, 2)}]
    said = capsys.readouterr().out
    assert "tasks.tiny.source: 3 rows repaired: rows.jsonl, line 1: the entity 'Ada Lo' becomes 'Ada Lovelace'" in said
    assert "line 2: column 'label' is empty, which counts as no entity" in said
    assert "line 3: the entity 'Ada Lovelace' is from 0 to 12, not from 2 to 14" in said


def test_an_end_that_contradicts_the_text_is_listed(capsys):
    [row] = read([{"start": 0, "end": 3, "text": "Ada Lovelace", "label": "PER"}])
    assert spans_of(row["tags"]) == {("PER", 0, 2)}
    assert "the entity 'Ada Lovelace' is from 0 to 12, not from 0 to 3" in capsys.readouterr().out


def test_offsets_that_miss_the_words_in_most_rows_are_called_doubtful(capsys):
    read([[1, 13, "PER"]], [[1, 13, "PER"]], PEOPLE)
    assert (
        "DOUBTFUL: most rows are repaired, as listed: check the offsets (characters from 0, not bytes;"
        in capsys.readouterr().out
    )
    read(PEOPLE, PEOPLE, [[1, 13, "PER"]])
    assert "DOUBTFUL" not in capsys.readouterr().out


@pytest.mark.parametrize("cell", [None, float("nan"), "", "[]"])
def test_an_empty_cell_counts_as_no_entity(cell):
    assert set(read(PEOPLE, cell)[1]["tags"]) == {"O"}


def test_of_two_entities_in_one_word_the_first_counts(capsys):
    [row] = read([[0, 5, "LOC"], [6, 12, "LOC"]], text="Paris_London is a route")
    assert row["words"][0] == "Paris_London" and spans_of(row["tags"]) == {("LOC", 0, 1)}
    assert (
        "the entity 'London' shares a word with the entity before it, which keeps the word" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ([[0, 12, "PER"], [4, 18, "LOC"]], "the entity 'Lovelace met \"' (LOC) overlaps with 'Ada Lovelace' (PER)"),
        ([[90, 95, "PER"]], "the entity from 90 to 95 (PER) is not in the text: expected 0 ≤ start < end ≤ 37"),
        ([[5, 5, "PER"]], "the entity from 5 to 5 (PER) is not in the text: expected 0 ≤ start < end ≤ 37"),
        ([[3, 4, "PER"]], "the entity from 3 to 4 (PER) holds only blanks"),
        ([[-5, -2, "PER"]], "the entity from -5 to -2 (PER) is not in the text: expected 0 ≤ start < end ≤ 37"),
        ([[30, 99, "LOC"]], "the entity from 30 to 99 (LOC) is not in the text: expected 0 ≤ start < end ≤ 37"),
        ([[-2, 12, "PER"]], "the entity from -2 to 12 (PER) is not in the text: expected 0 ≤ start < end ≤ 37"),
        ([[0.5, 12, "PER"]], "column 'label': entity 1 is [0.5, 12, 'PER']: expected [start, end, type]"),
        ([[True, 12, "PER"]], "column 'label': entity 1 is [True, 12, 'PER']: expected [start, end, type]"),
        ([[0, 12, True]], "column 'label': entity 1 is [0, 12, True]: expected [start, end, type]"),
        ([[0, 12]], "column 'label': entity 1 is [0, 12]: expected [start, end, type]"),
        ([{"start": 0, "label": "PER"}], "column 'label': entity 1 is {'start': 0, 'label': 'PER'}: expected"),
        ([{"start": 0, "end": 3, "labels": ["PER", "LOC"]}], "column 'label': entity 1 is {'start': 0"),
        ([[0, 12, "-PER"]], "column 'label': entity 1 has the type '-PER': expected a name that begins and ends"),
        ([[0, 12, " "]], "column 'label': entity 1 has the type ' ': expected a name that begins and ends"),
        ("PER", "column 'label': expected a list of entities"),
        (
            [{"start": 0, "end": 5, "text": "Byron", "label": "PER"}],
            "the entity 'Byron' does not occur in its text",
        ),
    ],
)
def test_a_wrong_entity_is_refused_with_its_row(cell, message):
    with pytest.raises(UserError) as refusal:
        read([[0, 12, "PER"]], cell)
    assert str(refusal.value).startswith(f"tasks.tiny.source: rows.jsonl, line 2: {message}")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"words": "tokens"}, "words: not read beside `entities`: remove one of them"),
        ({"scheme": "IOB2"}, "scheme: not read beside `entities`: remove one of them"),
        ({"text": ["title", "body"]}, "text: expected one column, as the offsets of `entities` count its characters"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(source, message):
    with pytest.raises(ValueError, match=message):
        Source(location="x", entities="label", **source)


def test_a_source_with_offsets_reads_text_in_place_of_words():
    source = Source(location="x", text="body", entities="label")
    assert TASK.column_names(source) == {"text": "body", "entities": "label"}
    assert TASK.column_names(source, labelled=False) == {"text": "body"}
    assert TASK.column_names(Text(location="x", limit=9, text="body"), labelled=False) == {"text": "body"}
    assert TASK.column_names(Source(location="x"), labelled=False) == {"words": "words"}
