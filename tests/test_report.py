"""`report`: one page that opens offline, with what the files of the run say."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import tiny

from pipeline import report
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.data import rows
from pipeline.tinybert.report import charts, page
from pipeline.tinybert.report.settings_table import keys_that_differ


def write(monkeypatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["report", *arguments])
    report.main()
    return Path("report.html").read_text(encoding="utf-8")


def git(*command: str) -> None:
    subprocess.run(["git", "-c", "user.name=A", "-c", "user.email=a@example.org", *command], check=True)


class Elements(HTMLParser):
    """The end tags of a page that do not close the innermost open element, and elements that stay open."""

    def __init__(self, text: str):
        super().__init__()
        self.opened, self.closed_wrongly = [], []
        self.feed(text)
        self.closed_wrongly += self.opened

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "br"):
            self.opened.append(tag)

    def handle_endtag(self, tag):
        if self.opened[-1:] == [tag]:
            self.opened.pop()
        else:
            self.closed_wrongly.append(f"/{tag}")

    def handle_startendtag(self, tag, attributes):
        pass


def test_the_page_stands_alone_and_shows_scores_charts_and_examples(world, monkeypatch):
    text = write(monkeypatch)
    assert Elements(text).closed_wrongly == []
    assert not re.search(r"<script|<link|<img|https?://|url\(", text)
    for title in ("Scores with 95 % intervals", "Score and latency", "Calibration", "Score by length",
                  "Confusion of the student", "finetune_teacher: loss"):  # fmt: skip
        assert f"<h3>{title}</h3>" in text
    assert "Teacher and student differ" in text and "surest mistakes" in text


def test_a_file_of_predictions_without_test_rows_leaves_the_teacher_blank(world, monkeypatch):
    scores, predictions = Path("metrics/tiny/scores.json"), Path("data/tiny/predictions.jsonl")
    without = {"teacher": None, "retention": None, "agreement": None}
    known = {key: value for key, value in json.loads(scores.read_text()).items() if key not in without}
    scores.write_text(json.dumps({**known, "retention": None}))
    lines = [json.loads(line) for line in predictions.read_text().splitlines()]
    rest = [json.dumps({key: value for key, value in line.items() if key != "teacher"}) for line in lines]
    predictions.write_text("\n".join(rest) + "\n")
    assert "Teacher and student differ (0 of" in write(monkeypatch)


def test_doubts_and_what_int8_costs_stand_above_the_table(world, monkeypatch):
    path = Path("metrics/tiny/scores.json")
    scores = json.loads(path.read_text())
    scores["student"] |= {"confidence": 0.22, "overconfidence": -0.766}
    scores["gain"] = {"value": -0.031, "low": -0.05, "high": -0.012}
    path.write_text(json.dumps(scores))
    int8 = Path("metrics/tiny/resampled/int8.jsonl")
    line = json.loads(Path("metrics/tiny/resampled/student.jsonl").read_text().splitlines()[0])
    lower = {"score": line["score"] - 0.03, "resampled": [value - 0.03 for value in line["resampled"]]}
    int8.write_text(json.dumps(line | lower))
    top = write(monkeypatch).split("<table")[0]
    assert "DOUBTFUL: distillation has not helped (on validation: student" in top
    assert "DOUBTFUL: the student&#x27;s probabilities are too low: 22.0 % on average" in top
    assert "The int8 model, compared with the student in PyTorch: worse (-3.0, -3.0 to -3.0)" in top
    int8.unlink()
    Path("metrics/tiny/finetune_student/validation.json").unlink()
    top = write(monkeypatch).split("<table")[0]
    assert "int8" not in top and "on validation" not in top and "DOUBTFUL: the student" in top


def test_scores_of_an_earlier_model_are_left_out_and_named(world, monkeypatch):
    lock = """
stages:
  distill_prediction@tiny:
    outs: [{path: models/tiny/student, md5: new}]
  evaluate@tiny:
    deps: [{path: models/tiny/student, md5: new}]
  export@tiny:
    deps: [{path: models/tiny/student, md5: EXPORTED}]
"""
    stale = "DOUBTFUL: metrics/tiny/export.json is of an earlier model: run `dvc repro`"
    int8 = "The int8 model, compared"
    Path("dvc.lock").write_text(lock.replace("EXPORTED", "old"))
    page_of_old = write(monkeypatch)
    assert stale in page_of_old and int8 not in page_of_old and "Score and latency" not in page_of_old
    Path("dvc.lock").write_text(lock.replace("EXPORTED", "new"))
    page_of_new = write(monkeypatch)
    assert stale not in page_of_new and int8 in page_of_new and "Score and latency" in page_of_new


def test_experiments_stand_beside_this_folder_with_a_verdict_and_their_settings(world, monkeypatch):
    git("init", "--quiet", "--initial-branch", "main")
    Path(".gitignore").write_text("data\nmodels\n")
    git("add", "--all")
    git("commit", "--quiet", "-m", "Before")
    git("update-ref", "refs/exps/ab/abc/brisk-yolk", "HEAD")
    Path("params.yaml").write_text(tiny.set_value("seed", 7)(Path("params.yaml").read_text()))
    text = write(monkeypatch, "brisk-yolk", "main")
    assert text.count('"verdict">no difference (+0.0, 0.0 to 0.0)<') == 2
    for title in ("Score and latency of int8", "Score by length", "distill_prediction: loss"):
        chart = text.split(f"<h3>{title}</h3>")[1].split("</figure>")[0]  # above the first run in detail
        assert all(name in chart for name in ("this folder", "brisk-yolk", "main")), title
        assert all(f"m-{place}" in chart for place in range(3)), title
    assert re.search(r">seed</td><td[^>]*>7</td><td[^>]*>1</td><td[^>]*>1</td>", text)
    with pytest.raises(UserError, match="nothing: expected a commit, a branch or an experiment"):
        write(monkeypatch, "nothing")


def test_a_blank_setting_equals_a_missing_one_and_a_run_without_settings_does_not_count():
    assert keys_that_differ([{"a": 1, "b": None, "c": 2}, {}, {"c": 2, "a": 3}]) == ["a"]


def test_each_of_several_runs_has_a_colour_and_lengths_are_in_order():
    names = ["this folder", "student-2-layers", "student-4-layers", "student int8"]
    assert [charts.css_class(name, place) for place, name in enumerate(names)] == ["m-0", "m-1", "m-2", "m-student"]
    runs = [page.Run("here", "films", "f1", {}, tables={"scores_by_length.csv": [
        {"metric": "f1", "length": length} for length in lengths]})
        for lengths in (["4-7", "16-31"], ["none", "1", "2-3", "16-31"])]  # fmt: skip
    assert page.lengths_of(runs) == ["none", "1", "2-3", "4-7", "16-31"]


def test_without_scores_or_predictions_the_page_says_what_to_run(world, monkeypatch):
    Path("data/tiny/predictions.jsonl").unlink()
    assert "No examples: the test rows or their predictions are not here" in write(monkeypatch)
    Path("metrics/tiny/scores.json").unlink()
    with pytest.raises(UserError, match=r"no metrics/<task>/scores.json of tiny .*run `dvc repro`"):
        write(monkeypatch)


@pytest.mark.parametrize("name", ["scores.json", "benchmark.json", "resampled/student.jsonl"])
def test_metrics_with_a_conflict_of_a_merge_are_named(world, monkeypatch, name):
    path = Path("metrics/tiny", name)
    path.write_text(f"<<<<<<< HEAD\n{path.read_text()}=======\n")
    with pytest.raises(UserError, match=f"^metrics/tiny/{name} is damaged: run `dvc repro`"):
        write(monkeypatch)


def test_predictions_of_other_rows_are_not_shown_beside_these(world, monkeypatch, capsys):
    path = Path("data/tiny/prepared/test.jsonl")
    rows.write(path, [{**row, "text": f"{row['text']} again"} for row in rows.read(path)])
    assert "surest mistakes" not in write(monkeypatch)
    assert "tiny: no examples: data/tiny/predictions.jsonl is of other rows than" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["results.v2", "results"])
def test_a_folder_is_not_replaced_by_the_page(world, monkeypatch, name):
    Path(name, "mine").mkdir(parents=True)
    monkeypatch.setattr(sys, "argv", ["report", "--out", name])
    with pytest.raises(UserError, match=f"^--out: {name}: expected the name of a file"):
        report.main()
    assert Path(name, "mine").is_dir()


def test_a_file_of_the_system_among_the_metrics_is_not_read(world, monkeypatch):
    Path("metrics/tiny/.DS_Store").write_bytes(b"\x00\xff")
    assert "Scores with 95 % intervals" in write(monkeypatch)


def test_the_share_of_a_class_counts_predictions_of_classes_that_are_not_shown():
    pairs = [
        ("0", "0"),
        *(("0", str(other)) for other in range(1, 40)),
        *((str(other), str(other)) for other in range(1, 40)),
    ]
    assert "fill-opacity:0.03" in charts.confusion(pairs)  # 1 of 40


def test_texts_cannot_change_the_page():
    row, predicted = {"text": "<b>a & b</b>", "label": "x"}, {"teacher": "<i>", "student": "y", "mistake": 0.9}
    run = page.Run("here", "films", "accuracy", {"student": {}})
    shown = page.example_table(run, [(row, predicted)])
    assert "&lt;b&gt;a &amp; b&lt;/b&gt;" in shown and "<b>" not in shown and "<i>" not in shown


def test_an_answer_and_tags_are_shown_as_words():
    question = {"question": "how", "passage": "it is warm", "answers": []}
    assert page.readable(question, [6, 10]) == "warm" and page.readable(question, None) == "no answer"
    assert page.readable({"words": ["Ann", "is"]}, ["B-PER", "O"]) == "Ann: B-PER"


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.5], [0.0], [-3, 1e6], [1e-9, 2e-9]])
def test_a_scale_covers_every_range(values):
    place, ticks = charts.scale(values, 0, 100)
    assert ticks and all(0 <= place(value) <= 100 for value in (*values, *ticks))


def test_numbers_that_differ_most_come_first_and_classes_are_in_order():
    run = page.Run("here", "films", "pearson", {"student": {}}, examples=[
        ({"text": text, "label": 1.0}, {"teacher": 1.0, "student": number, "mistake": 0.0})
        for text, number in (("near", 1.1), ("far", 4.0), ("equal", 1.0))])  # fmt: skip
    shown = page.examples(run)
    assert shown.index("far") < shown.index("near") and "equal" not in shown
    chart = charts.confusion([("10", "2"), ("2", "2"), ("10", "10")])
    assert chart.index(">2</text>") < chart.index(">10</text>")
