"""``python -m pipeline.predict``: an answer a line, that of the student that was scored."""

import csv
import gzip
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas
import pytest
import tiny
from safetensors.torch import load_file, save_file
from scipy.special import expit, softmax

from pipeline import predict
from pipeline.tinybert import tasks
from pipeline.tinybert.core import settings
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.output import write_json
from pipeline.tinybert.data import rows
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.models.formats import FILES
from pipeline.tinybert.models.inference import EvaluationSet, pytorch_forward
from pipeline.tinybert.release import answer_files, model_card, stand_alone
from pipeline.tinybert.tasks import Task
from pipeline.tinybert.tasks.named_entities import spans_of, to_iob2

TEXTS = ["The film was really great with story .", "the plot is dull", "a heartwarming film"]
THRESHOLD = 0.0


def said(monkeypatch, capsys, *arguments: str) -> list[dict]:
    monkeypatch.setattr(sys, "argv", ["predict", *arguments])
    capsys.readouterr()  # what was said before
    predict.main()
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("kind", tasks.KINDS)
@pytest.mark.parametrize("model", FILES)
def test_answers_are_those_of_the_student_whatever_the_file(exported_kind, monkeypatch, capsys, tmp_path, kind, model):
    name = exported_kind(kind)
    configuration = settings.load()
    task = tasks.load(configuration, name)
    asked = list(rows.read(f"data/{name}/prepared/test.jsonl"))[:8]
    student = task.load_model(f"models/{name}/student")
    evaluation = EvaluationSet(task, asked, checkpoints.tokenizer(f"models/{name}/student"))
    with pytorch_forward(task, student) as forward:
        expected = evaluation.predictions(evaluation.logits(forward))
    file = tmp_path / "asked.jsonl"
    rows.write(file, asked)
    Path("metrics", name).mkdir(parents=True, exist_ok=True)
    write_json(Path("metrics", name, "export.json"), {"threshold": THRESHOLD})
    found = said(monkeypatch, capsys, name, "--file", str(file), "--model", model)
    assert len(found) == len(asked)
    key = {"text_classification": "label", "regression": "number", "multi_label": "labels", "named_entities": "tags",
           "question_answering": "answer"}[kind]  # fmt: skip
    answers = [answer[key] for answer in found]
    if kind == "question_answering":
        expected = [answer["text"] for answer in task.apply_threshold(expected, THRESHOLD)]
    if kind == "regression":
        assert answers == pytest.approx(expected, abs=0.2 if model == "int8" else 1e-3)
    elif model == "int8":  # a few of its answers may be others
        same = [ours == theirs for ours, theirs in zip(answers, expected, strict=True)]
        assert sum(same) >= 7, (answers, expected)
    else:
        assert answers == expected


def test_texts_of_the_command_line_are_answered_with_probabilities(world, monkeypatch, capsys):
    found = said(monkeypatch, capsys, "tiny", TEXTS[0], "--model", "pytorch", *TEXTS[1:])
    assert [answer["text"] for answer in found] == TEXTS
    assert [answer["label"] for answer in found][:2] == ["positive", "negative"]
    for answer in found:
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-3)
        assert max(answer["probabilities"], key=answer["probabilities"].get) == answer["label"]


def test_each_line_of_the_standard_input_is_answered_as_it_comes(world):
    with tiny.start_python("-m", "pipeline.predict", "tiny", stdin=subprocess.PIPE) as process:
        for text in TEXTS:
            process.stdin.write(text + "\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["text"] == text
        process.stdin.close()
        assert "onnx model of tiny: models/tiny/onnx/model.onnx" in process.stderr.read()
        assert process.wait() == 0


def test_an_onnx_file_is_run_without_libraries_that_take_seconds_to_import(world):
    with tiny.start_python(
        "-X", "importtime", "-m", "pipeline.predict", "tiny", TEXTS[0], "--model", "int8"
    ) as process:
        out, err = process.communicate()
    assert json.loads(out)["label"] == "positive"
    imported = {line.rpartition("|")[2].strip() for line in err.splitlines() if line.startswith("import time:")}
    assert "onnxruntime" in imported and not imported & {"torch", "transformers", "scipy", "pandas", "datasets"}


def check_a_closed_pipe(read: int, *arguments: str) -> None:
    """The command ends quietly if what reads its answers closes the pipe after ``read`` lines."""
    Path("asked.txt").write_text("the plot is dull\n" * (20_000 * read or 1))  # more than a pipe holds, or a buffer's
    with open("asked.txt") as asked, tiny.start_python(*arguments, stdin=asked) as process:
        for _ in range(read):
            process.stdout.readline()
        process.stdout.close()
        assert not {"Traceback", "BrokenPipeError"} & set(re.findall(r"\w+", process.stderr.read()))
        assert process.wait() == 0


@pytest.mark.parametrize("read", [0, 1])
def test_a_reader_that_has_enough_ends_it_quietly(world, read):
    check_a_closed_pipe(read, "-m", "pipeline.predict", "tiny", "--file", "asked.txt")


@pytest.mark.parametrize("read", [0, 1])
def test_a_reader_that_has_enough_ends_the_folder_s_predict_py_quietly(release, read):
    check_a_closed_pipe(read, str(release("text_classification") / "predict.py"), "--pair", "a film")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["tiny", "good", "--context", "more"], "this task reads one text only"),
        (["tiny", "good", "--file", "x"], "give one of them"),
        (["tiny", "--file", "nowhere.txt"], r"nowhere.txt cannot be read: No such file"),
        (["tiny", "   "], r"text 1: column 'text': empty text"),
        (["nothing", "good"], "no task 'nothing'"),
    ],
)
def test_what_cannot_be_answered_is_an_error_that_says_where(world, monkeypatch, arguments, why):
    monkeypatch.setattr(sys, "argv", ["predict", *arguments])
    with pytest.raises(UserError, match=why):
        predict.main()


@pytest.mark.parametrize(
    ("line", "why"), [('{"text": 3}', "line 2: .*expected text"), ("{no", "line 2: not valid JSON"),
                      ('{"txt": "good"}', "line 2: no text"), ("caf\u00e9", "line 2: not UTF-8"),
                      ("go\0od", "line 2: a NUL character")]
)  # fmt: skip
def test_a_bad_line_is_named(world, monkeypatch, tmp_path, line, why):
    (tmp_path / "asked.txt").write_bytes(f"good film\n{line}\n".encode("latin-1"))
    monkeypatch.setattr(sys, "argv", ["predict", "tiny", "--file", str(tmp_path / "asked.txt")])
    with pytest.raises(UserError, match=why):
        predict.main()


@pytest.mark.parametrize(
    "content",
    ["a good film\n".encode("utf-16"), gzip.compress(b"a good film\n", mtime=0), b"PK\3\4\0\0"],
    ids=["UTF-16", "compressed", "spreadsheet"],
)
def test_a_file_that_is_no_text_is_not_answered(world, monkeypatch, capsys, tmp_path, content):
    (tmp_path / "asked.xlsx").write_bytes(content)
    monkeypatch.setattr(sys, "argv", ["predict", "tiny", "--file", str(tmp_path / "asked.xlsx")])
    with pytest.raises(UserError, match="asked.xlsx is not UTF-8 text, but compressed, a spreadsheet or UTF-16"):
        predict.main()
    assert not capsys.readouterr().out


def test_an_input_without_texts_is_told(world, monkeypatch, capsys, tmp_path):
    (tmp_path / "asked.txt").write_text("\n \n")
    monkeypatch.setattr(sys, "argv", ["predict", "tiny", "--file", str(tmp_path / "asked.txt")])
    predict.main()
    found = capsys.readouterr()
    assert not found.out and "no text to answer" in found.err


TABLE = [{"text": TEXTS[0], "label": ""}, {"text": 'the plot\nis dull, 3 "stars"', "label": "x"}]
TABLES = {
    "asked.csv": lambda frame, path: frame.to_csv(path, index=False),
    "asked.tsv": lambda frame, path: frame.to_csv(path, index=False, sep="\t"),
    "asked.parquet": lambda frame, path: frame.to_parquet(path),
    "asked.jsonl": lambda frame, path: frame.to_json(path, orient="records", lines=True),
    "asked.json": lambda frame, path: frame.to_json(path, orient="records"),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_read_as_the_source_is(world, monkeypatch, capsys, name):
    TABLES[name](pandas.DataFrame(TABLE), name)
    found = said(monkeypatch, capsys, "tiny", "--file", name)
    assert [answer["text"] for answer in found] == [row["text"] for row in TABLE]
    assert [answer["label"] for answer in found] == ["positive", "negative"]


TYPED = [
    {"id": 7, "text": TEXTS[0], "label": "gold", "note": None},
    {"id": 8, "text": "  ", "label": "other", "note": "odd"},
    {"id": 9, "text": TEXTS[1], "label": None, "note": "a, b"},
]
READ_BACK = {
    "out.csv": lambda path: pandas.read_csv(path),
    "out.tsv": lambda path: pandas.read_csv(path, sep="\t"),
    "out.parquet": lambda path: pandas.read_parquet(path),
    "out.jsonl": lambda path: pandas.read_json(path, lines=True),
}


@pytest.mark.parametrize("name", READ_BACK)
def test_a_file_of_answers_has_all_fields_of_the_input_in_its_order(world, monkeypatch, capsys, name):
    rows.write("asked.jsonl", TYPED)
    with pytest.raises(UserError, match="^1 of 3 could not be answered: asked.jsonl, line 2: .*empty text$"):
        said(monkeypatch, capsys, "tiny", "--file", "asked.jsonl", "--output", name)
    found = READ_BACK[name](name)
    assert list(found["id"]) == [7, 8, 9] and list(found["text"].str.strip()) == [TEXTS[0], "", TEXTS[1]]
    first, second, third = found.astype(object).where(found.notna(), None).to_dict("records")
    assert (first["label"], third["label"]) == ("positive", "negative")
    assert "empty text" in second["error"] and second["label"] in (None, "") and not first.get("error")
    assert first["input_label"] == "gold" and third["note"] == "a, b"
    assert second["input_label"] == "other" and second["note"] == "odd"
    probabilities = first["probabilities"]
    probabilities = json.loads(probabilities) if isinstance(probabilities, str) else dict(probabilities)
    assert probabilities["positive"] > 0.5


def test_fields_that_the_task_does_not_read_stand_beside_the_answer(world, monkeypatch, capsys):
    rows.write("asked.jsonl", TYPED[::2])
    first, third = said(monkeypatch, capsys, "tiny", "--file", "asked.jsonl")
    assert (first["id"], first["text"], first["input_label"], first["label"]) == (7, TEXTS[0], "gold", "positive")
    assert (third["id"], third["note"]) == (9, "a, b")


def test_no_field_is_lost_if_the_answers_of_another_model_are_the_input(world, monkeypatch, capsys):
    rows.write("asked.jsonl", [{"text": TEXTS[0], "label": "gold"}])
    for file, answers in (("asked.jsonl", "first.csv"), ("first.csv", "second.csv")):
        said(monkeypatch, capsys, "tiny", "--file", file, "--output", answers)
    found = pandas.read_csv("second.csv").iloc[0]
    assert (found["input_input_label"], found["input_label"], found["label"]) == ("positive", "gold", "positive")


def test_a_line_break_of_any_kind_stays_in_its_cell(tmp_path):
    answers = [{"text": "one\rtwo", "label": "a\r\nb"}, {"text": "three\n", "label": "c"}]
    with answer_files.open_file(tmp_path / "out.csv", "text_classification") as write:
        write(answers)
    with open(tmp_path / "out.csv", encoding="utf-8", newline="") as file:
        assert [{name: row[name] for name in ("text", "label")} for row in csv.DictReader(file)] == answers


@pytest.mark.parametrize("name", [name for name in READ_BACK if name != "out.jsonl"])
def test_a_file_without_answers_has_their_columns(tmp_path, name):
    with answer_files.open_file(tmp_path / name, "text_classification"):
        pass
    assert list(READ_BACK[name](tmp_path / name)) == ["label", "probabilities", "error"]


def test_a_field_that_the_first_record_lacks_is_a_column_of_parquet(tmp_path):
    with answer_files.open_file(tmp_path / "out.parquet", "text_classification") as write:
        write([{"error": "empty"}, {"label": "a", "note": 3}])
    assert list(pandas.read_parquet(tmp_path / "out.parquet")["note"]) == [pytest.approx(math.nan, nan_ok=True), 3]


@pytest.mark.parametrize("value", [2**63, "half \ud800 of a pair"])
def test_what_parquet_does_not_have_is_refused(tmp_path, value):
    file = answer_files.open_file(tmp_path / "out.parquet", "text_classification")
    with pytest.raises(UserError, match="values that Parquet cannot hold: write a .jsonl file"), file as write:
        write([{"label": "a", "note": value}])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["out.parquet", "out.csv"])
def test_a_folder_is_not_replaced_by_a_file_of_answers(tmp_path, name):
    (tmp_path / name / "part").mkdir(parents=True)
    file = answer_files.open_file(tmp_path / name, "text_classification")
    with pytest.raises(UserError, match="is a folder: name another file"), file:
        pass
    assert (tmp_path / name / "part").is_dir()


def test_numbered_columns_of_a_conll_file_pass_through_under_their_numbers(tmp_path):
    answers = [predict.with_fields({1: ["Ada"], 2: ["NNP"]}, {"tags": ["O"], "entities": []}, "named_entities")]
    for name in ("out.parquet", "out.csv", "out.jsonl"):
        with answer_files.open_file(tmp_path / name, "named_entities") as write:
            write(answers)
    assert list(pandas.read_parquet(tmp_path / "out.parquet")["2"][0]) == ["NNP"]
    assert pandas.read_csv(tmp_path / "out.csv")["2"][0] == '["NNP"]'
    assert json.loads((tmp_path / "out.jsonl").read_text())["2"] == ["NNP"]


@pytest.mark.parametrize("kind", tasks.KINDS)
def test_every_kind_is_written_to_a_parquet_file(exported_kind, monkeypatch, capsys, kind):
    name = exported_kind(kind)
    file = Path("data", "raw", kind, "text.jsonl")
    printed = said(monkeypatch, capsys, name, "--file", str(file))
    said(monkeypatch, capsys, name, "--file", str(file), "--output", "out.parquet")
    found = pandas.read_parquet("out.parquet").to_dict("records")
    assert len(found) == len(printed)
    for answer, cells in zip(printed, found, strict=True):
        for field in stand_alone.ANSWERS[kind]:
            if field in ("label", "number", "answer"):
                assert cells[field] == answer[field]
            elif field in ("labels", "tags"):
                assert list(cells[field]) == answer[field]


def test_blocks_of_a_long_file_are_answered_in_order(world, monkeypatch, capsys):
    monkeypatch.setattr(predict, "BLOCK", 3)
    asked = [text for text, _ in tiny.sentences(10, seed=5)]
    Path("asked.txt").write_text("\n".join(asked))
    one_by_one = [said(monkeypatch, capsys, "tiny", text, "--model", "int8")[0] for text in asked]
    assert said(monkeypatch, capsys, "tiny", "--file", "asked.txt", "--model", "int8") == one_by_one
    found = said(monkeypatch, capsys, "tiny", "--file", "asked.txt")
    assert [answer["text"] for answer in found] == asked


@pytest.mark.parametrize(
    ("name", "why"),
    [("out.xls", r"--output: out.xls: expected a file that ends with one of .jsonl, .ndjson, .csv"),
     ("nowhere/out.csv", "--output: nowhere/out.csv: there is no folder nowhere: create it first")],
)  # fmt: skip
def test_a_file_that_cannot_be_written_is_refused(world, monkeypatch, capsys, name, why):
    with pytest.raises(UserError, match=why):
        said(monkeypatch, capsys, "tiny", TEXTS[0], "--output", name)


def test_inputs_that_do_not_fit_into_a_table_are_refused(world, monkeypatch, capsys):
    monkeypatch.setattr(predict, "BLOCK", 1)
    for more, name, why in [
        ({"id": 2, "new": 1}, "out.csv", "an input has the field 'new', the inputs before have none: write a .jsonl"),
        ({"id": "two"}, "out.parquet", "a column has values of several types, or values"),
    ]:
        rows.write("asked.jsonl", [{"text": TEXTS[0], "id": 1}, {"text": TEXTS[0], **more}])
        with pytest.raises(UserError, match=why):
            said(monkeypatch, capsys, "tiny", "--file", "asked.jsonl", "--output", name)
        assert not Path(name).exists()


def test_a_table_has_the_column_and_the_delimiter_of_the_source(world, monkeypatch, capsys):
    settings = tiny.set_value("tasks.tiny.source.text", "review")
    settings = tiny.set_value("tasks.tiny.source.delimiter", ";")(settings(Path("params.yaml").read_text()))
    Path("params.yaml").write_text(settings)
    Path("asked.csv").write_text("id;review\n1;a great film\n")
    assert [answer["text"] for answer in said(monkeypatch, capsys, "tiny", "--file", "asked.csv")] == ["a great film"]
    Path("asked.csv").write_text("id;note\n1;a great film\n")
    with pytest.raises(UserError, match=r"--file: asked.csv has no column 'review' \(it has: id, note\)"):
        said(monkeypatch, capsys, "tiny", "--file", "asked.csv")


@pytest.mark.parametrize("training", [{"quotes": False}, {"delimiter": ";"}])
@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("asked.csv", 'id,text\n1,"good film"\n2,"a bad, bad film"\n', ["good film", "a bad, bad film"]),
        ("asked.csv", 'id;text\n1;"good film"\n2;a bad, bad film\n', ["good film", "a bad, bad film"]),
        ("asked.csv", "text\na good film\na bad; bad film\n", ["a good film", "a bad; bad film"]),
        ("asked.tsv", 'text\tid\n"Good" film\t1\n', ['"Good" film']),
    ],
)
def test_a_file_may_have_another_delimiter_and_other_quotes_than_the_training_file(
    world, monkeypatch, capsys, training, name, content, texts
):
    for setting, value in training.items():
        params = tiny.set_value(f"tasks.tiny.source.{setting}", value)(Path("params.yaml").read_text())
        Path("params.yaml").write_text(params)
    Path(name).write_text(content)
    assert [answer["text"] for answer in said(monkeypatch, capsys, "tiny", "--file", name)] == texts


def test_quotes_that_are_text_enclose_no_line_breaks(world, monkeypatch, capsys):
    params = tiny.set_value("tasks.tiny.source.quotes", False)(Path("params.yaml").read_text())
    Path("params.yaml").write_text(params)
    Path("asked.tsv").write_text('text\tid\n"Great\t1\nplain\t2\nmovie"\t3\nx\t4\n')
    found = [answer["text"] for answer in said(monkeypatch, capsys, "tiny", "--file", "asked.tsv")]
    assert found == ['"Great', "plain", 'movie"', "x"]


def test_a_quote_that_does_not_close_is_not_read_as_text(world, monkeypatch, capsys):
    Path("asked.csv").write_text('id,text\n1,"first line\nsecond, line"\n2,fine\n3,"a "bad" quote"\n')
    with pytest.raises(UserError, match="asked.csv cannot be read as csv: line"):
        said(monkeypatch, capsys, "tiny", "--file", "asked.csv")


def test_quotes_around_all_texts_are_no_part_of_them_even_if_one_does_not_close(world, monkeypatch, capsys):
    Path("asked.csv").write_text('id,text\n1,"good film"\n2,"a "bad" film"\n')
    with pytest.raises(UserError, match="asked.csv cannot be read as csv: line 3: a quote does not close"):
        said(monkeypatch, capsys, "tiny", "--file", "asked.csv")


@pytest.mark.parametrize("name", ["asked.csv", "asked.jsonl"])
def test_joined_columns_are_one_text(world, monkeypatch, capsys, name):
    settings = tiny.set_value("tasks.tiny.source.text", ["subject", "body"])
    Path("params.yaml").write_text(settings(Path("params.yaml").read_text()))
    frame = pandas.DataFrame({"subject": ["a good film", ""], "body": ["it was fun", "a bad film"]})
    TABLES[name](frame, name)
    found = said(monkeypatch, capsys, "tiny", "--file", name)
    assert [answer["text"] for answer in found] == ["a good film\nit was fun", "a bad film"]


def test_a_bad_line_is_reported_in_its_place_and_the_others_are_answered(world, monkeypatch, capsys):
    good = json.dumps({"text": TEXTS[0]})
    bad = {
        b'{"text": "\\ud83d"}': "a character is not valid Unicode",
        b"\xff": "not UTF-8",
        b'{"text": "a"} {"text": "b"}': "not valid JSON: Extra data",
        b"[" * 100_000: "expected a JSON object",
        b'{"text": ' + b"[" * 100_000: "not valid JSON",
        b'{"text": null}': "empty text",
        b'["a film"]': "expected a JSON object",
    }
    lines = [line for one in bad for line in (one, good.encode(), b"")]
    Path("asked.jsonl").write_bytes(b"\n".join(lines))
    with pytest.raises(UserError, match=r"^7 of 14 could not be answered: asked.jsonl, line 1: "):
        said(monkeypatch, capsys, "tiny", "--file", "asked.jsonl")
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["label"] for answer in found[1::2]] == ["positive"] * 7
    for number, (answer, why) in enumerate(zip(found[::2], bad.values(), strict=True)):
        assert answer["error"].startswith(f"asked.jsonl, line {3 * number + 1}: ") and why in answer["error"]


def test_a_text_of_the_command_line_that_is_not_utf_8_is_reported_in_its_place(world, monkeypatch, capsys):
    with pytest.raises(UserError, match="^1 of 2 could not be answered: text 1: a character is not valid Unicode"):
        said(monkeypatch, capsys, "tiny", os.fsdecode(b"caf\xe9"), "a great film")
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["error"].startswith("text 1: a character is not valid Unicode") and second["label"] == "positive"


def test_a_model_with_weights_that_are_not_finite_gives_no_answer(world, monkeypatch):
    path = Path("models/tiny/onnx/model.safetensors")
    weights = load_file(path)
    save_file({name: values * float("nan") for name, values in weights.items()}, path, metadata={"format": "pt"})
    monkeypatch.setattr(sys, "argv", ["predict", "tiny", "good", "--model", "pytorch"])
    with pytest.raises(UserError, match="model.safetensors: the model's outputs are not finite"):
        predict.main()


@pytest.mark.parametrize("model", FILES)
def test_what_is_not_built_yet_is_named_with_the_command_that_builds_it(world, monkeypatch, model):
    Path("models/tiny/onnx", FILES[model]).unlink()
    monkeypatch.setattr(sys, "argv", ["predict", "tiny", "good", "--model", model])
    with pytest.raises(UserError, match=rf"{FILES[model]} is not built yet: run `dvc repro export@tiny`"):
        predict.main()


@pytest.mark.parametrize(
    ("setting", "value", "why"),
    [
        ("labels", ["good", "negative"], "the labels negative, positive, the task now has good, negative"),
        ("kind", "multi_label", "single_label_classification, the task now has multi_label_classification"),
        ("kind", "named_entities", "BertForSequenceClassification, the task now has ForTokenClassification"),
        ("max_length", 100, "at most 64 word pieces, the task now has 100"),
    ],
    ids=["labels", "kind of labels", "kind", "max_length"],
)
def test_a_model_that_was_made_before_the_task_changed_does_not_answer(world, monkeypatch, setting, value, why):
    if setting == "labels":
        write_json(Path("data/tiny/prepared/task.json"), {"labels": value})
    else:
        metric = {"multi_label": "micro_f1", "named_entities": "f1"}.get(value, "accuracy")
        tiny.write_params(world / "params.yaml", **{f"tasks.tiny.{setting}": value, "tasks.tiny.metric": metric})
    monkeypatch.setattr(sys, "argv", ["predict", "tiny", "a film"])
    with pytest.raises(UserError, match=f"^models/tiny/onnx was made for {why}: run `dvc repro export@tiny`"):
        predict.main()


def test_a_text_that_is_too_long_is_answered_and_told_beside(world, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["predict", "tiny", "good " * 100])
    predict.main()
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 1 and "1 of 1 texts are longer" in printed.err


def test_a_question_is_answered_from_its_passage_in_several_windows(exported_kind, monkeypatch, capsys):
    name = exported_kind("question_answering")
    write_json(Path("metrics", name, "export.json"), {"threshold": None})
    passage = "the film is with the plot and the cast . " * 20 + "the film is great ."
    found = said(monkeypatch, capsys, name, "which film ?", "--context", passage)
    assert found == [{"question": "which film ?", "answer": "great", "start": passage.index("great")}]
    asked = json.dumps({"question": "which film ?", "context": passage})
    Path("asked.jsonl").write_text(asked + "\n")
    assert said(monkeypatch, capsys, name, "--file", "asked.jsonl") == found


def test_the_start_of_an_answer_counts_in_the_passage_as_it_was_given(exported_kind, monkeypatch, capsys):
    name = exported_kind("question_answering")
    write_json(Path("metrics", name, "export.json"), {"threshold": None})
    passage = "The film is great ."
    [plain], [shifted] = (
        said(monkeypatch, capsys, name, "which film ?", "--context", blanks + passage) for blanks in ("", " \n ")
    )
    assert plain["answer"] and passage[plain["start"] :].startswith(plain["answer"])
    assert shifted == {**plain, "start": plain["start"] + 3}


def test_a_pair_is_one_text_and_another(exported_kind, monkeypatch, capsys):
    name = exported_kind("text_classification")
    found = said(monkeypatch, capsys, name, TEXTS[0], "--pair", TEXTS[1])
    Path("asked.jsonl").write_text(json.dumps({"one": TEXTS[0], "two": TEXTS[1]}) + "\n")  # the task's own columns
    assert said(monkeypatch, capsys, name, "--file", "asked.jsonl") == found
    assert said(monkeypatch, capsys, name, TEXTS[0], "--pair", TEXTS[0]) != found


def test_words_may_be_a_text_or_a_list_written_as_text(exported_kind, monkeypatch, capsys):
    name = exported_kind("named_entities")
    Path("asked.csv").write_text('words\nthe film is great\n"[""the"", ""film""]"\n"[\'the\', \'film\']"\n[sic] film\n')
    found = said(monkeypatch, capsys, name, "--file", "asked.csv")
    expected = [["the", "film", "is", "great"], ["the", "film"], ["the", "film"], ["[", "sic", "]", "film"]]
    assert [answer["words"] for answer in found] == expected


@pytest.mark.parametrize("column", [1, "tokens"])
@pytest.mark.parametrize("name", TABLES)
def test_a_text_may_stand_in_the_place_of_words(exported_kind, monkeypatch, capsys, name, column):
    task = exported_kind("named_entities")
    expected = said(monkeypatch, capsys, task, TEXTS[0])[0]
    params = tiny.set_value(f"tasks.{task}.source.words", column)(Path("params.yaml").read_text())
    Path("params.yaml").write_text(params)
    TABLES[name](pandas.DataFrame({"id": ["a"], "text": [TEXTS[0]]}), name)
    assert said(monkeypatch, capsys, task, "--file", name) == [{**expected, "id": "a", "text": TEXTS[0]}]


def test_tags_are_answered_in_the_scheme_of_the_source(exported_kind, monkeypatch, capsys):
    name = exported_kind("named_entities")
    file = Path("data", "raw", name, "text.jsonl")
    in_iob2 = said(monkeypatch, capsys, name, "--file", str(file))
    params = tiny.set_value(f"tasks.{name}.source.scheme", "BIOES")(Path("params.yaml").read_text())
    Path("params.yaml").write_text(params)
    for model in ("onnx", "pytorch"):
        found = said(monkeypatch, capsys, name, "--file", str(file), "--model", model)
        assert [answer["entities"] for answer in found] == [answer["entities"] for answer in in_iob2]
        for answer in found:
            words = [f"word{number}" for number in range(len(answer["tags"]))]
            assert spans_of(to_iob2(words, answer["tags"], "BIOES")) == {
                (entity["type"], entity["first"], entity["first"] + len(entity["words"]))
                for entity in answer["entities"]
            }


def test_a_source_with_offsets_takes_texts_and_keeps_their_labels(exported_kind, monkeypatch, capsys):
    name = exported_kind("named_entities")
    Path("params.yaml").write_text(
        tiny.set_value(f"tasks.{name}.source.entities", "label")(Path("params.yaml").read_text())
    )
    text = " The film was really great with story ."
    Path("asked.jsonl").write_text(json.dumps({"id": 4, "text": text, "label": [[0, 3, "PER"]]}) + "\n")
    [found] = said(monkeypatch, capsys, name, "--file", "asked.jsonl")
    assert list(found) == ["text", "id", "label", "tags", "entities"]
    assert (found["text"], found["id"], found["label"]) == (text, 4, [[0, 3, "PER"]])
    assert found["entities"]
    for entity in found["entities"]:
        assert text[entity["start"] : entity["end"]] == " ".join(entity["words"])
    assert said(monkeypatch, capsys, name, text)[0]["entities"] == found["entities"]


def test_an_entity_is_its_type_and_the_range_of_its_words():
    assert stand_alone.entities(["B-PER", "I-PER", "O", "B-PER"]) == [("PER", 0, 2), ("PER", 3, 4)]


# predict.py of the release folder

LONG = "The film is good , but the plot was very dull and the cast seems awful with a great script . " * 3
ALONE = """
import importlib.abc, runpy, sys
class OnlyThese(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "transformers", "pipeline", "scipy", "seqeval", "pandas"):
            raise ImportError(name)
sys.meta_path.insert(0, OnlyThese())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_alone(folder: Path, *arguments: str, lines: str = "") -> list[dict]:
    """The answers of the folder's predict.py where the libraries that it must not need are missing."""
    command = [sys.executable, "-c", ALONE, folder / "predict.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, input=lines, cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def expected_answers(kind: str, asked: list[dict]) -> list[dict]:
    """The answers of the project's own code, in PyTorch."""
    task = tasks.load(settings.load(), kind)
    asked = [
        {field: value.strip() if isinstance(value, str) else value for field, value in row.items()} | {"given": row}
        for row in asked
    ]
    evaluation = EvaluationSet(task, asked, checkpoints.tokenizer(f"models/{kind}/student"))
    with pytorch_forward(task, task.load_model(f"models/{kind}/student")) as forward:
        logits = evaluation.logits(forward, batch_size=1)
    predictions = task.apply_threshold(evaluation.predictions(logits), THRESHOLD if task.needs_threshold else None)
    of_row = [[] for _ in asked]
    for number, values in zip(evaluation.columns["example"], logits, strict=True):
        of_row[number].append(values)
    return [answer_of(kind, task.labels, *each) for each in zip(asked, predictions, of_row, strict=True)]


def answer_of(kind: str, labels: list[str], row: dict, prediction, logits: list) -> dict:
    """A prediction in the form in which `predict` prints it."""
    if kind == "regression":
        return {"number": prediction}
    if kind == "named_entities":
        spans = sorted(spans_of(prediction), key=lambda span: span[1])
        entities = [{"type": kind, "words": row["words"][first:end], "first": first} for kind, first, end in spans]
        return {"tags": prediction, "entities": entities}
    if kind == "question_answering":
        before = len(row["given"]["passage"]) - len(row["given"]["passage"].lstrip())
        start = {"start": prediction["start"] + before} if prediction["text"] else {}
        return {"answer": prediction["text"], **start}
    name, probabilities = {"text_classification": ("label", softmax), "multi_label": ("labels", expit)}[kind]
    return {name: prediction, "probabilities": dict(zip(labels, probabilities(logits[0][0]), strict=True))}


def longer(row: dict) -> dict:
    """A row of the same kind that is longer than max_length, with characters that the tokenizer drops."""
    made = {name: f" {text}\u200b {LONG}" if isinstance(text, str) else text for name, text in row.items()}
    return {**made, "words": [*row["words"], "\ufe0f", *LONG.split()]} if "words" in row else made


@pytest.mark.parametrize("kind", tasks.KINDS)
def test_the_folder_s_predict_py_answers_as_the_project_does(release, kind):
    folder = release(kind)
    asked = [
        {field: value for field, value in row.items() if field in ("text", "pair", "words", "question", "passage")}
        for row in rows.read(f"data/{kind}/prepared/test.jsonl")
    ][:12]
    asked += [longer(row) for row in asked[:3]]
    given = [{"context" if field == "passage" else field: value for field, value in row.items()} for row in asked]
    expected = expected_answers(kind, asked)
    for batch_size in (1, 4):
        found = stand_alone.Model(folder, "onnx/model.onnx").predict(given, batch_size)
        for ours, theirs in zip(expected, found, strict=True):
            for name, value in ours.items():
                close = name in ("number", "probabilities")
                assert theirs[name] == (pytest.approx(value, abs=2e-3) if close else value)
    lines = "".join(json.dumps(row) + "\n" for row in given[-3:])
    alone = run_alone(folder, "--model", "onnx", lines=lines)
    assert alone == [{**row, **answer} for row, answer in zip(given[-3:], found[-3:], strict=True)]
    assert stand_alone.Model(folder).predict(given[:3])  # int8


def test_the_folder_s_predict_py_reads_a_byte_order_mark_and_names_bad_lines(release):
    lines = "\ufeff" + "\n".join(['{"text": "a film"}', "", '{"text": null}', "{great} film", "a film"])
    command = [sys.executable, release("regression") / "predict.py"]
    done = subprocess.run(command, capture_output=True, input=lines.encode())
    first, bad, worse, last = map(json.loads, done.stdout.decode().splitlines())
    assert done.returncode == 1 and first == last and first["text"] == "a film"
    assert bad == {"error": "line 3: expected a text as 'text'"}
    assert worse["error"].startswith("line 4: not valid JSON: ")


def test_the_folder_s_predict_py_answers_every_line_however_odd(release):
    odd = [b'{"text": "\\ud83d good"}', b'{"text": "good", "n": ' + b"[" * 9000 + b"]" * 9000 + b"}", b"caf\xe9"]
    odd += [b'{"text": ""}', '{"text": "\u200b"}'.encode(), b'{"text": "a film", "number": 5, "error": "x"}', b"a film"]
    command = [sys.executable, release("regression") / "predict.py"]
    done = subprocess.run(command, capture_output=True, input=b"\n".join(odd))
    *bad, renamed, last = map(json.loads, done.stdout.decode().splitlines())
    assert [answer["error"].partition(":")[0] for answer in bad] == [f"line {number}" for number in range(1, 6)]
    assert renamed == {"text": "a film", "input_number": 5, "input_error": "x", "number": last["number"]}
    assert done.returncode == 1 and not done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("हिन्दी भाषा, state-of-the-art.", ["हिन्दी", "भाषा", ",", "state-of-the-art", "."]),
        ("cafe\u0301 (3.14)", ["cafe\u0301", "(", "3.14", ")"]),
    ],
)
def test_vowel_signs_and_accents_belong_to_their_word(text, words):
    assert stand_alone.words_in(text) == words


def test_entities_in_a_text_have_their_places_in_it(release):
    folder = release("named_entities")
    text = " The film was really great with story ."
    [found] = stand_alone.Model(folder, "onnx/model.onnx").predict([{"text": text}])
    [in_words] = stand_alone.Model(folder, "onnx/model.onnx").predict([{"words": text.split()}])
    assert found["tags"] == in_words["tags"] and found["entities"]
    for entity, same in zip(found["entities"], in_words["entities"], strict=True):
        assert text[entity["start"] : entity["end"]] == " ".join(entity["words"])
        assert {**same, "start": entity["start"], "end": entity["end"]} == entity
    assert run_alone(folder, text, "--model", "onnx") == [{"text": text, **found}]


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ("IOB2", ["B-PER", "I-PER", "B-PER", "O", "B-ORG", "I-ORG", "I-ORG", "I-PER"]),
        ("IOB1", ["I-PER", "I-PER", "B-PER", "O", "I-ORG", "I-ORG", "I-ORG", "O"]),
        ("BIOES", ["B-PER", "E-PER", "S-PER", "O", "B-ORG", "I-ORG", "E-ORG", "O"]),
    ],
)
def test_tags_are_in_the_scheme_of_the_training_data(scheme, expected):
    tags = ["B-PER", "I-PER", "B-PER", "O", "B-ORG", "I-ORG", "I-ORG", "I-PER"]
    found = stand_alone.entities(tags)
    assert set(found) == spans_of(tags)
    assert stand_alone.in_scheme(tags, found, scheme) == expected


def by_the_card(task: Task, row: dict, folder: Path, monkeypatch) -> Any:
    """What the model card's code for transformers returns in the release folder."""
    *code, call = model_card.with_transformers(task, row)
    monkeypatch.chdir(folder)
    names: dict = {}
    exec("\n".join(code), names)
    return eval(call, names)


@pytest.mark.parametrize("kind", ["text_classification", "multi_label", "regression"])  # the first has pairs
def test_the_cards_code_for_transformers_gives_the_numbers_of_predict(release, kind, monkeypatch):
    folder, pair = release(kind), {"pair": TEXTS[1]} if kind == "text_classification" else {}
    row = {"text": TEXTS[0], **pair}
    found = by_the_card(tasks.load(settings.load(), kind), row, folder, monkeypatch)
    [expected] = stand_alone.Model(folder, "onnx/model.onnx").predict([row])
    numbers = expected.get("probabilities") or {"score": expected["number"]}
    answers = found if pair else found[0]  # transformers puts those of a text alone in a further list
    assert {answer["label"]: answer["score"] for answer in answers} == pytest.approx(numbers, abs=1e-3)


def test_the_cards_code_for_transformers_finds_the_entities_of_predict(release, monkeypatch):
    folder, row = release("named_entities"), {"words": TEXTS[0].split()}
    found = by_the_card(tasks.load(settings.load(), "named_entities"), row, folder, monkeypatch)
    [expected] = stand_alone.Model(folder, "onnx/model.onnx").predict([row])
    assert expected["entities"]
    assert [(entity["entity_group"], entity["word"]) for entity in found] == [
        (entity["type"], " ".join(entity["words"])) for entity in expected["entities"]
    ]
