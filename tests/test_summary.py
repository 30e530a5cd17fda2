"""`summary`: one entry for each task in `run`, and means where they make sense."""

import csv
import json
from pathlib import Path

import pytest
import tiny
from tiny import run_stage

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.evaluation import summary

FILE = Path("metrics/summary.json")


def test_the_summary_has_the_numbers_of_the_reports(world):
    [(name, task)] = json.loads(FILE.read_text())["tasks"].items()
    scores, export, benchmark = (
        json.loads(Path(f"metrics/tiny/{report}.json").read_text()) for report in ("scores", "export", "benchmark")
    )
    int8 = benchmark["student"]["int8"]
    assert (name, task["metric"], task["score"]) == ("tiny", "accuracy", scores["student"]["accuracy"])
    assert (task["gain"], task["retention"]) == (scores["gain"]["value"], scores["retention"])
    assert (task["int8_score"], task["megabytes"]) == (export["int8"]["accuracy"], int8["megabytes"])
    assert task["milliseconds"] == int8["p50"]


def test_several_tasks_are_summed_up_and_those_not_in_run_are_left_out(world):
    tiny.write_params(world / "params.yaml")
    one = json.loads(Path("metrics/summary/tiny.json").read_text())
    for name in ("other", "gone"):
        Path(f"metrics/summary/{name}.json").write_text(json.dumps({**one, "retention": 0.5}))
    params = Path("params.yaml").read_text()
    entry = tiny.set_value("tasks.other", {"kind": "regression", "options": None, "metric": "pearson", "max_length": 32,
                           "source": {"location": "data/raw/other/rows.csv"}, "unlabelled": None,
                           **dict.fromkeys(tiny.STAGES_A_TASK_MAY_CHANGE)})  # fmt: skip
    Path("params.yaml").write_text(tiny.set_value("run", ["tiny", "other"])(entry(params)))
    run_stage("summary")
    report = json.loads(FILE.read_text())
    assert list(report["tasks"]) == ["tiny", "other"] and report["mean"]["tasks"] == 2
    assert report["mean"]["retention"] == pytest.approx((one["retention"] + 0.5) / 2, abs=1e-4)
    with open("metrics/summary.csv", newline="") as file:
        assert {row["task"] for row in csv.DictReader(file)} == {"tiny", "other"}


def test_a_task_without_numbers_is_named(world):
    Path("metrics/summary/tiny.json").unlink()
    with pytest.raises(UserError, match="^metrics/summary/tiny.json is not there: run `dvc repro package@tiny`"):
        run_stage("summary")


def test_means_that_make_no_sense_are_left_out():
    task = {"gain": 0.1, "retention": None, "agreement": 0.9, "score": 0.8, "int8_score": 0.8, "times_faster": 2.0}
    found = summary.mean([{**task, "metric": "accuracy"}, {**task, "metric": "f1", "times_faster": 8.0}])
    assert found == {"tasks": 2, "gain": 0.1, "retention": None, "agreement": 0.9, "times_faster": 4.0}
    assert summary.mean([{**task, "metric": "f1"}])["score"] == 0.8
