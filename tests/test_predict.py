"""``python -m pipeline.predict``: an answer a line, that of the student that was scored."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from pipeline import predict
from pipeline.tinybert import tasks
from pipeline.tinybert.core import settings
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.output import write_json
from pipeline.tinybert.data import rows
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.models.inference import EvaluationSet, pytorch_forward

TEXTS = ["The film was really great with story .", "the plot is dull", "a heartwarming film"]
THRESHOLD = 0.0


def said(monkeypatch, capsys, *arguments: str) -> list[dict]:
    monkeypatch.setattr(sys, "argv", ["predict", *arguments])
    capsys.readouterr()  # what was said before
    predict.main()
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("kind", tasks.KINDS)
@pytest.mark.parametrize("model", checkpoints.FILES)
def test_answers_are_those_of_the_student_whatever_the_file(exported_kind, monkeypatch, capsys, tmp_path, kind, model):
    name = exported_kind(kind)
    configuration = settings.load()
    task = tasks.load(f"data/{name}/prepared/task.json", configuration.task(name), name)
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
    elif model != "int8":  # whose answers may be others
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


def test_a_reader_that_has_enough_ends_it_quietly(world):
    Path("asked.txt").write_text("the plot is dull\n" * 20_000)  # more than a pipe holds
    with tiny.start_python("-m", "pipeline.predict", "tiny", "--file", "asked.txt") as process:
        process.stdout.readline()
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()
        assert process.wait() == 0


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["tiny", "good", "--context", "more"], "this task is about one text"),
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
                      ('{"txt": "good"}', "line 2: no text"), ("caf\u00e9", "line 2: not UTF-8")]
)  # fmt: skip
def test_a_bad_line_is_named(world, monkeypatch, tmp_path, line, why):
    (tmp_path / "asked.txt").write_bytes(f"good film\n{line}\n".encode("latin-1"))
    monkeypatch.setattr(sys, "argv", ["predict", "tiny", "--file", str(tmp_path / "asked.txt")])
    with pytest.raises(UserError, match=why):
        predict.main()


@pytest.mark.parametrize("model", checkpoints.FILES)
def test_what_is_not_built_yet_is_named_with_the_command_that_builds_it(world, monkeypatch, model):
    Path("models/tiny/onnx", checkpoints.FILES[model]).unlink()
    monkeypatch.setattr(sys, "argv", ["predict", "tiny", "good", "--model", model])
    with pytest.raises(UserError, match=rf"{checkpoints.FILES[model]} is not built yet: run `dvc repro export@tiny`"):
        predict.main()


def test_a_text_that_is_too_long_is_answered_and_told_beside(world, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["predict", "tiny", "good " * 100])
    predict.main()
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 1 and "1 of 1 texts are longer" in printed.err


def test_a_question_is_answered_from_its_passage_in_several_windows(exported_kind, monkeypatch, capsys):
    name = exported_kind("question_answering")
    found = said(monkeypatch, capsys, name, "which film ?", "--context", "the film is great . " * 30)
    assert found[0]["question"] == "which film ?" and set(found[0]) >= {"answer"}
    asked = json.dumps({"question": "which film ?", "context": "the film is great . " * 30})
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


def test_entities_stand_beside_their_tags():
    task = tasks.KINDS["named_entities"]("f1", 32, None, ["O", "B-PER", "I-PER"])
    row = {"words": ["Ada", "Lovelace", "met", "Babbage"]}
    found = task.format_prediction(row, ["B-PER", "I-PER", "O", "B-PER"], [])["entities"]
    assert found == [
        {"type": "PER", "words": ["Ada", "Lovelace"], "first": 0},
        {"type": "PER", "words": ["Babbage"], "first": 3},
    ]
