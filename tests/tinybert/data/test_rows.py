import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny import write_file

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.output import read_json, write_csv, write_json
from pipeline.tinybert.data import rows

values = st.one_of(st.text(), st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False))
records = st.lists(st.dictionaries(st.text(), values))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("rows")


@settings(deadline=None)
@given(records)
@example(
    [{"text": "\"quoted\" 'it's' \\ back"}, {"text": "two\nlines\r\n\tand\x85\u2028more"}, {"text": "café 電影 🎬"}]
)
def test_read_rows_equal_the_written_ones(folder, some_rows):
    assert rows.write(folder / "rows.jsonl", some_rows) == len(some_rows)
    assert list(rows.read(folder / "rows.jsonl", may_be_empty=True)) == some_rows


@settings(deadline=None)
@given(records)
def test_equal_rows_give_equal_bytes_one_utf_8_line_per_row(folder, some_rows):
    for name in ("one.jsonl", "two.jsonl"):
        rows.write(folder / name, iter(some_rows))
    content = (folder / "one.jsonl").read_bytes()
    assert content == (folder / "two.jsonl").read_bytes()
    assert content.count(b"\n") == len(some_rows)
    assert b"\r" not in content
    assert [json.loads(line) for line in content.decode("utf-8").split("\n")[:-1]] == some_rows


def test_text_is_not_escaped_in_the_file(folder):
    rows.write(folder / "rows.jsonl", [{"text": "café 電影"}])
    assert (folder / "rows.jsonl").read_bytes() == '{"text": "café 電影"}\n'.encode()


def test_json_is_indented_and_keeps_its_order(folder):
    write_json(folder / "scores.json", {"b": {"é": 1}, "a": None})
    expected = '{\n  "b": {\n    "é": 1\n  },\n  "a": null\n}\n'
    assert (folder / "scores.json").read_bytes() == expected.encode()


def test_tables_round_numbers_to_six_digits(folder):
    table = [(1, 0.1234567, "a,b"), (20, 1e-9 / 3, 'say "hi"'), (3, 0, None)]
    write_csv(folder / "loss.csv", ["step", "loss", "note"], table)
    expected = 'step,loss,note\n1,0.123457,"a,b"\n20,3.33333e-10,"say ""hi"""\n3,0,\n'
    assert (folder / "loss.csv").read_bytes() == expected.encode()


@pytest.mark.parametrize(
    "content", [b'{"id": "train-0"}\n{"id": "tr', b"\0\0\0", b'{"text": "caf\xe9"}\n', b"3\n", b"\n"]
)
def test_a_damaged_file_of_rows_is_named_with_what_to_do(tmp_path, content):
    (tmp_path / "train.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=r"train.jsonl is damaged: run `dvc repro`, which writes it again"):
        list(rows.read(tmp_path / "train.jsonl"))


def test_a_file_without_rows_is_refused_unless_it_may_be_empty(tmp_path):
    path = write_file(tmp_path / "train.jsonl", "")
    for read in (rows.count, lambda path: list(rows.read(path))):
        with pytest.raises(UserError, match=r"train.jsonl is empty: run `dvc repro`, which writes it again"):
            read(path)
    assert list(rows.read(path, may_be_empty=True)) == []


@pytest.mark.parametrize("content", ["", '{"a": 1', "\0"])
def test_a_damaged_json_file_is_named_with_what_to_do(tmp_path, content):
    with pytest.raises(UserError, match=r"scores.json is damaged: run `dvc repro`, which writes it again"):
        read_json(write_file(tmp_path / "scores.json", content))
