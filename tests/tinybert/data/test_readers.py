import json
import tracemalloc

import datasets
import pandas as pd
import pytest
from tiny import write_file

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.settings import Source
from pipeline.tinybert.data import readers, sources

pytestmark = pytest.mark.usefixtures("files_anywhere")

ROWS = [("good film", "1"), ("bad plot", "0"), ("so so", "1")]


def records(location, split=None, **more) -> list[tuple[str, dict]]:
    source = Source(location=str(location), **more)
    columns = [source.text or "text", *([source.label] if source.label else [])]
    return list(sources.records(source, split, columns, "tasks.tiny.source"))


def csv_of(rows, separator=","):
    return "".join(f"{text}{separator}{label}\n" for text, label in [("text", "label"), *rows])


def json_lines_of(rows):
    return "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)


@pytest.fixture(params=["csv", "tsv", "jsonl", "json", "parquet", "CSV"])
def table(request, tmp_path):
    path = tmp_path / f"rows.{request.param}"
    if request.param == "parquet":
        pd.DataFrame(ROWS, columns=["text", "label"], index=["x", "y", "z"]).to_parquet(path)
        return path
    content = {"tsv": csv_of(ROWS, "\t"), "jsonl": json_lines_of(ROWS)}.get(request.param, csv_of(ROWS))
    if request.param == "json":
        content = json.dumps([{"text": text, "label": label} for text, label in ROWS])
    return write_file(path, content)


def test_every_file_format_is_read(table):
    assert records(table, label="label") == [
        (f"{table.name}, {position(table, number)}", {"text": text, "label": label})
        for number, (text, label) in enumerate(ROWS, 1)
    ]


def position(table, number: int) -> str:
    """The position of a record in messages: its line in files of lines (after the header), or its row."""
    kind = table.suffix.lower()
    return f"row {number}" if kind in (".json", ".parquet") else f"line {number + (kind in ('.csv', '.tsv'))}"


def test_rows_selected_by_where_keep_their_positions(table):
    assert [where for where, _ in records(table, where={"label": 1})] == [
        f"{table.name}, {position(table, number)}" for number in (1, 3)
    ]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"text": "review"}, "has no column 'review' (it has: text, label)"),
        ({"label": "stars"}, "has no column 'stars'"),
        ({"where": {"source": "imdb"}}, "has no column 'source'"),
        ({"where": {"label": 7}}, "has no row where {'label': 7}"),
    ],
)
def test_missing_columns_and_an_empty_selection_are_reported(table, settings, expected):
    with pytest.raises(UserError, match="^tasks.tiny.source: rows") as raised:
        records(table, **settings)
    assert expected in str(raised.value)


@pytest.mark.parametrize("start", ["", "\ufeff"], ids=["", "BOM"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["unix", "windows"])
def test_csv_may_have_quotes_line_breaks_a_byte_order_mark_and_windows_line_ends(tmp_path, start, end):
    lines = ["text,label", '"He said ""film"", twice",1', f'"two{end}lines",0', "  café 電影 ,NA", "null,"]
    path = write_file(tmp_path / "rows.csv", start + end.join(lines) + end)
    assert [(record["text"], record["label"]) for _, record in records(path)] == [
        ('He said "film", twice', "1"),
        (f"two{end}lines", "0"),
        ("  café 電影 ", "NA"),
        ("null", ""),
    ]


def test_values_of_json_lines_are_not_converted(tmp_path):
    lines = [
        '{"text": "2020-01-01", "label": 1}',
        "",
        '{"text": "1e5", "label": null}',
        '{"text": 12345678901234567890}',
    ]
    path = write_file(tmp_path / "rows.jsonl", "\ufeff" + "\r\n".join(lines))
    first, second, third = (record for _, record in records(path))
    assert first == {"text": "2020-01-01", "label": 1}
    assert second == {"text": "1e5", "label": None}
    assert third["text"] == 12345678901234567890


def test_parquet_integers_stay_integers_in_a_column_with_missing_values(tmp_path):
    frame = pd.DataFrame({"text": ["a", "b"], "label": pd.array([1, None], dtype="Int64")})
    frame.to_parquet(tmp_path / "rows.parquet")
    assert [record["label"] for _, record in records(tmp_path / "rows.parquet")] == [1, None]


def test_each_line_of_a_text_file_that_is_not_blank_is_a_text(tmp_path):
    path = write_file(tmp_path / "more.TXT", "\ufefffirst, with a comma\r\n\n  \nsecond \u2028 half\n")
    assert list(records(path)) == [
        ("more.TXT, line 1", {"text": "first, with a comma"}),
        ("more.TXT, line 4", {"text": "second \u2028 half"}),
    ]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("rows.xlsx", "text", "expected a file that ends with one of .csv, .tsv, .jsonl, .ndjson, .json, .parquet"),
        ("rows", "text", "expected a file that ends with one of"),
        (
            "rows.jsonl",
            '{"text": "a"}\n{"text": "b"\n',
            "line 2, character 13: not valid JSON: Expecting ',' delimiter",
        ),
        ("rows.jsonl", '{"text": "a"}\n["b"]\n', "line 2: expected objects"),
        ("rows.jsonl", '{"text": "a"}\n{"text": "\\ud800"}\n', "line 2: "),
        (
            "rows.jsonl",
            '{"text": "a"}\n{"text": "b"}, {"text": "c"}\n',
            "line 2, character 14: more than one value: expected one object on each line",
        ),
        (
            "rows.jsonl",
            '[\n{"text": "a"}\n]',
            "line 1, character 2: not valid JSON: Expecting value: expected one object",
        ),
        ("rows.jsonl", '{"text": "a"}\n' + "[" * 100_000, "line 2: objects or lists are nested too deeply"),
        ("rows.json", "[" * 100_000, "cannot be read as json: objects or lists are nested too deeply"),
        ("rows.json", '{"text": "a"}', "cannot be read as json: expected objects"),
        ("rows.json", "5", "cannot be read as json: expected objects"),
        ("rows.csv", "text,label\na,1\nb, c,0\n", "line 3: 3 fields, the header has 2: quote"),
        ("rows.csv", 'text,label\nb,0\n"a,1\nb,0\n', "line 3 to 4: a quote does not close"),
        ("rows.csv", 'text,label\n"a" b,1\n', "line 2: a quote does not close, or closes within"),
        ("rows.csv", 'text,label\n"a,1\nb "c",0\n', "line 2 to 3: a quote does not close"),
        ("rows.csv", "text,label\ncafé,1\n".encode("latin-1"), "cannot be read as csv: line 2: not UTF-8 (byte 0xe9)"),
        ("rows.csv", "", "line 1: the file is empty: expected a header"),
        ("rows.csv", ",,\na,b,c\n", "line 1: its first line has no names: expected a header"),
        ("rows.conll", "word O\n" * 501, "one sentence of 501 words: an empty line ends a sentence"),
        ("rows.csv", "text,label\n", "has no row"),
        ("rows.parquet", "text", "cannot be read as parquet"),
    ],
)
def test_a_bad_file_is_reported_with_its_setting_and_line(tmp_path, name, content, expected):
    with pytest.raises(UserError, match=f"^tasks.tiny.source: .*{name}") as raised:
        records(write_file(tmp_path / name, content))
    assert expected in str(raised.value)


def records_with(path, columns, **more) -> list[tuple[str, dict]]:
    return list(sources.records(Source(location=str(path), **more), None, columns, "tasks.tiny.source"))


@pytest.mark.parametrize(("delimiter", "setting"), [("\t", "\t"), ("\t", None), (" ", None), ("   ", None), ("|", "|")])
@pytest.mark.parametrize("name", ["rows.conll", "rows.bio", "rows.iob"])
def test_conll_files_give_a_record_for_each_sentence(tmp_path, delimiter, setting, name):
    lines = ["-DOCSTART-  O", "", "EU NNP B-ORG", "rejects VBZ O", "", "", "Peter NNP B-PER", ""]
    path = write_file(tmp_path / name, "\r\n".join(lines).replace(" ", delimiter))
    assert records_with(path, [1, 3], delimiter=setting) == [
        (f"{name}, sentence at line 3", {1: ["EU", "rejects"], 2: ["NNP", "VBZ"], 3: ["B-ORG", "O"]}),
        (f"{name}, sentence at line 7", {1: ["Peter"], 2: ["NNP"], 3: ["B-PER"]}),
    ]


def test_a_conll_line_with_another_number_of_columns_is_reported(tmp_path):
    path = write_file(tmp_path / "rows.conll", "EU B-ORG\nrejects\n")
    with pytest.raises(UserError, match=r"line 2: 1 columns, the lines before have 2: 'rejects'"):
        records_with(path, [1, 2])
    with pytest.raises(UserError, match=r"rows.conll has no column '4' \(it has: 1, 2\)"):
        records_with(write_file(tmp_path / "rows.conll", "EU B-ORG\n"), [1, 4])


def squad_file(**question) -> str:
    fields = {"id": "q1", "question": "who?", "answers": [{"text": "Smith", "answer_start": 3}], **question}
    paragraphs = [{"context": "By Smith", "qas": [fields]}]
    return json.dumps({"version": "v2.0", "data": [{"title": "Films", "paragraphs": paragraphs}]})


def test_squad_files_give_a_record_for_each_question(tmp_path):
    answers = [{"text": "Smith", "answer_start": 3}]
    path = write_file(tmp_path / "squad.json", squad_file())
    assert records_with(path, ["question"]) == [
        (
            "squad.json, question q1",
            {"id": "q1", "title": "Films", "context": "By Smith", "question": "who?", "answers": answers},
        )
    ]
    write_file(path, squad_file(is_impossible=True, plausible_answers=answers, answers=[]))
    assert records_with(path, ["question"])[0][1]["answers"] == []


def test_an_invalid_squad_file_is_reported_with_the_question(tmp_path):
    path = write_file(tmp_path / "squad.json", json.dumps({"data": [{"paragraphs": [{"context": "By Smith"}]}]}))
    with pytest.raises(UserError, match=r"cannot be read as json: article 1 \(None\): not in SQuAD's format .*'qas'"):
        records_with(path, ["question"])
    write_file(path, squad_file(is_impossible=True))
    with pytest.raises(UserError, match=r"article 1 \(Films\), question q1: is_impossible, but it has answers"):
        records_with(path, ["question"])


def test_records_of_several_lines_are_counted_and_the_longest_is_named(tmp_path, capsys):
    """An unclosed quote swallows the rows up to the next quote."""
    rows = [f"a film,{number % 2}" for number in range(20)]
    rows[4], rows[9] = '"a film,0', 'a film",1'
    assert len(records(write_file(tmp_path / "rows.csv", "\n".join(["text,label", '"two\nlines",1', *rows])))) == 16
    assert capsys.readouterr().out == (
        "rows.csv: 2 of 16 records span several lines, the longest from line 8 to 13: if it should not, a quote is"
        " left open there\n"
    )


@pytest.mark.parametrize(("name", "delimiter"), [("rows.csv", ","), ("rows.tsv", "\t")])
def test_with_quotes_false_quotes_belong_to_the_text(tmp_path, capsys, name, delimiter):
    path = write_file(tmp_path / name, f'text{delimiter}label\n"a" film{delimiter}1\n"a plot{delimiter}0\n')
    assert [record["text"] for _, record in records_with(path, ["text"], quotes=False)] == ['"a" film', '"a plot']
    assert capsys.readouterr().out == ""


def test_a_field_of_a_million_characters_is_read(tmp_path):
    path = write_file(tmp_path / "rows.csv", 'text,label\n"' + "film " * 200_000 + '",1\n')
    assert len(records(path)[0][1]["text"]) == 1_000_000


def test_a_repeated_column_is_reported(tmp_path):
    with pytest.raises(UserError, match="the column 'text' occurs twice in the header"):
        records(write_file(tmp_path / "rows.csv", "text,label,text\na,1,b\n"))


def test_columns_without_a_name_are_left_out(tmp_path):
    path = write_file(tmp_path / "rows.csv", ",text,label,,\n0,a film,1,,\n")
    assert records(path) == [("rows.csv, line 2", {"text": "a film", "label": "1"})]


@pytest.mark.parametrize("first", ["sep=;\r\n", '\ufeff"SEP=;"\n', "sep=;\n\n"])
@pytest.mark.parametrize("delimiter", [None, ";"])
def test_the_line_with_the_delimiter_that_excel_writes_is_no_header(tmp_path, first, delimiter):
    path = write_file(tmp_path / "rows.csv", first + "text;label\na film, good;1\n")
    line = first.count("\n") + 2
    assert records(path, delimiter=delimiter) == [(f"rows.csv, line {line}", {"text": "a film, good", "label": "1"})]


def test_blank_lines_above_the_header_and_empty_fields_behind_the_last_column_are_ignored(tmp_path):
    path = write_file(tmp_path / "rows.csv", "\n\ntext,label\na film,1,\na plot,0,,,\n")
    assert records(path) == [
        ("rows.csv, line 4", {"text": "a film", "label": "1"}),
        ("rows.csv, line 5", {"text": "a plot", "label": "0"}),
    ]
    with pytest.raises(UserError, match="line 2: 3 fields, the header has 2"):
        records(write_file(tmp_path / "more.csv", "text,label\na film,1,x\n"))


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_training_data_of_spacy_are_read(tmp_path, name):
    rows = [["Ann is here", {"entities": [[0, 3, "PER"]]}], ["nobody", {"entities": []}]]
    content = json.dumps(rows) if name == "rows.json" else "".join(f"{json.dumps(row)}\n" for row in rows)
    found = [record for _, record in records(write_file(tmp_path / name, content))]
    assert found == [{"text": text, **more} for text, more in rows]


@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize(
    ("name", "between", "setting", "expected"),
    [
        ("rows.csv", ";", None, '2 columns with a semicolon between them: set `delimiter: ";"`'),
        ("rows.csv", "\t", None, '2 columns with a tab between them: set `delimiter: "\\t"`'),
        ("rows.csv", "|", None, '2 columns with a bar between them: set `delimiter: "|"`'),
        ("rows.tsv", ",", None, '2 columns with a comma between them: set `delimiter: ","`'),
        ("rows.csv", ",", ";", "2 columns with a comma between them: leave `delimiter` blank"),
    ],
)
def test_a_file_with_another_delimiter_is_reported_with_the_setting(tmp_path, quote, name, between, setting, expected):
    """Whether its lines fail to be read, or only lack the columns."""
    rows = [f"text{between}label", f"{quote}a film, good{quote}{between}1", f"{quote}a plot; bad{quote}{between}0"]
    with pytest.raises(UserError, match="^tasks.tiny.source: .*: its header looks like ") as raised:
        records(write_file(tmp_path / name, "\n".join(rows)), delimiter=setting)
    assert str(raised.value).endswith(expected)


def test_a_wrong_delimiter_of_a_conll_file_is_reported(tmp_path):
    path = write_file(tmp_path / "rows.conll", "EU B-ORG\nrejects O\n")
    expected = r"has no column '2' \(it has: 1\): leave `delimiter` blank if white space separates its columns"
    with pytest.raises(UserError, match=expected):
        records_with(path, [1, 2], delimiter="\t")
    path = write_file(tmp_path / "rows.conll", "EU\tB-ORG\nNew York\tB-LOC\n")
    with pytest.raises(UserError, match=r'line 2: 3 columns.*: set `delimiter: "\\t"` if only tabs separate'):
        records_with(path, [1, 2])
    assert records_with(path, [1, 2], delimiter="\t")[0][1][1] == ["EU", "New York"]


TABLE = pd.DataFrame(ROWS, columns=["text", "label"], index=[3, 5, 7])


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(json.dumps({"version": 2, "data": TABLE.to_dict("records")}), id="a list in an object"),
        *(
            pytest.param(TABLE.to_json(orient=form), id=f"pandas, {form}")
            for form in ("columns", "index", "split", "table", "records")
        ),
    ],
)
def test_rows_of_json_in_other_forms_than_a_list(tmp_path, content):
    path = write_file(tmp_path / "rows.json", content)
    found = [record for _, record in records(path, label="label")]
    assert [(record["text"], record["label"]) for record in found] == [tuple(row) for row in ROWS]


@pytest.mark.parametrize("form", ["columns", "split"])
def test_columns_that_pandas_numbers_are_named_by_their_digits(tmp_path, form):
    path = write_file(tmp_path / "rows.json", pd.DataFrame(ROWS).to_json(orient=form))
    assert [record for _, record in records(path, text="0", label="1")] == [{"0": a, "1": b} for a, b in ROWS]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"columns": ["text", "label"], "data": [["a", "b"], ["c"]]}',
            r"a row of `data` is \['c'\]: expected a list of 2",
        ),
        ('{"text": "a", "answers": [{"text": "b"}]}', "expected objects in a list"),
        ('{"data": [{"text": "a"}], "rows": [{"text": "b"}]}', "expected objects in a list"),
        ('{"data": ["a", "b"]}', "expected objects, each with the same columns"),
    ],
)
def test_json_without_rows_is_refused(tmp_path, content, message):
    path = write_file(tmp_path / "rows.json", content)
    with pytest.raises(UserError, match=message):
        records(path, label="label")


@pytest.mark.parametrize("name", ["rows.json", "rows.ndjson", "rows.NDJSON"])
def test_json_lines_are_read_from_files_of_other_names(tmp_path, name):
    path = write_file(tmp_path / name, json_lines_of(ROWS))
    assert records(path, label="label") == [
        (f"{name}, line {number}", {"text": text, "label": label}) for number, (text, label) in enumerate(ROWS, 1)
    ]


def test_only_a_line_feed_ends_a_line_of_a_conll_file(tmp_path):
    """Other characters that Unicode calls separators belong to words."""
    separators = "\u2028\u2029\x85\x0b\x0c\x1c\u00a0\u3000"
    lines = [f"a{separator}b\tO" for separator in separators]
    path = write_file(tmp_path / "rows.conll", "\r\n".join(lines))
    words = [f"a{separator}b" for separator in separators]
    assert records_with(path, [1, 2]) == [("rows.conll, sentence at line 1", {1: words, 2: ["O"] * len(words)})]


@pytest.mark.parametrize("comment", ["# sent_id = 0", "# newdoc", "# id 520 domain=en", "# text = EU rejects"])
def test_comments_before_a_sentence_of_a_conll_file_are_left_out_and_counted(tmp_path, comment, capsys):
    lines = [comment, "EU _ _ O", "rejects _ _ O", "", comment, "# _ _ O", "Peter _ _ B-PER"]
    assert records_with(write_file(tmp_path / "rows.conll", "\n".join(lines)), [1, 4]) == [
        ("rows.conll, sentence at line 2", {1: ["EU", "rejects"], 2: ["_"] * 2, 3: ["_"] * 2, 4: ["O", "O"]}),
        ("rows.conll, sentence at line 6", {1: ["#", "Peter"], 2: ["_"] * 2, 3: ["_"] * 2, 4: ["O", "B-PER"]}),
    ]
    assert capsys.readouterr().out == "rows.conll: 2 comment lines (# … =) left out\n"


def test_tags_of_a_parquet_file_get_the_names_in_its_metadata(tmp_path, capsys):
    names = datasets.ClassLabel(names=["O", "B-PER"])
    features = datasets.Features(
        {"tokens": datasets.Sequence(datasets.Value("string")), "ner_tags": datasets.Sequence(names)}
    )
    rows = {"tokens": [["Peter", "left"]], "ner_tags": [[1, 0]]}
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "rows.parquet")
    columns = ["tokens", "ner_tags"]
    [(_, record)] = records_with(tmp_path / "rows.parquet", columns)
    assert record == {"tokens": ["Peter", "left"], "ner_tags": ["B-PER", "O"]}
    assert (
        "rows.parquet: column 'ner_tags': numbers become names, by the file's metadata: O, B-PER"
        in capsys.readouterr().out
    )
    [(_, record)] = records_with(tmp_path / "rows.parquet", columns, labels={"O": 0, "B-X": 1})
    assert record["ner_tags"] == [1, 0]


def test_classes_of_a_parquet_file_get_the_names_in_its_metadata(tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    datasets.Dataset.from_dict({"text": ["a film"], "label": [1]}, features).to_parquet(tmp_path / "rows.parquet")
    [(_, record)] = records_with(tmp_path / "rows.parquet", ["text", "label"])
    assert record["label"] == "good"


def test_lists_with_missing_values_keep_their_integers(tmp_path):
    pd.DataFrame({"tags": [[1, None], None]}).to_parquet(tmp_path / "rows.parquet")
    assert [record["tags"] for _, record in records_with(tmp_path / "rows.parquet", ["tags"])] == [[1, None], None]


def test_a_parquet_file_that_unpacks_to_many_times_its_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "MOST_UNPACKED", 1 << 20)
    pd.DataFrame({"text": ["a film " * 1000] * 1000}).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(UserError, match=r"rows.parquet cannot be read as parquet: it unpacks to more than"):
        records(tmp_path / "rows.parquet")


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.jsonl", "rows.parquet", "rows.conll"])
def test_memory_does_not_grow_with_the_file(tmp_path, name):
    rows, path = [("a film " * 20, "O")] * 20_000, tmp_path / name  # 3 MB
    if name == "rows.parquet":
        pd.DataFrame(rows, columns=["text", "label"]).to_parquet(path)
    elif name == "rows.conll":
        write_file(path, "film O\nplot O\n\n" * 20_000)
    else:
        write_file(path, json_lines_of(rows) if name == "rows.jsonl" else csv_of(rows, "\t" if "tsv" in name else ","))
    found = readers.records(path, Source(location=str(path)), "tasks.tiny.source")
    next(found)
    tracemalloc.start()
    try:
        for _ in found:
            pass
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()
