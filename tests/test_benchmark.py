"""What `benchmark` reports: sizes and operations as they are, times of everything beside everything; no timing."""

import csv
import json
import os
from pathlib import Path

import pytest
import tiny
from tiny import run_stage
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForSequenceClassification

from pipeline.tinybert import latency

MODELS = [f"{which} {form}" for which in ("teacher", "student") for form in ("pytorch", "onnx", "int8")]


def read(path: str) -> list[dict]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_model_is_measured_in_every_situation(world):
    tiny.write_params(world / "params.yaml", **{"benchmark.batch_sizes": [1, 3]})
    run_stage("benchmark")
    report, records = (
        json.loads(Path("metrics/tiny/benchmark.json").read_text()),
        read("metrics/tiny/benchmark/latency.csv"),
    )
    threads = {"1", str(os.cpu_count())}
    lengths = {str(length) for length in report["word_pieces"].values()}
    situations = {
        (model, size, length, count) for model in MODELS for size in "13" for length in lengths for count in threads
    }
    found = [(row["model"], row["batch_size"], row["word_pieces"], row["threads"]) for row in records]
    assert set(found) == situations and len(found) == len(situations)
    assert all(0 < float(row["p50"]) <= float(row["p95"]) for row in records)
    assert {row["times_faster"] for row in records if row["model"] == "teacher pytorch"} == {"1"}


def test_sizes_and_operations_are_those_of_the_files(world):
    run_stage("benchmark")
    report = json.loads(Path("metrics/tiny/benchmark.json").read_text())
    for which in ("teacher", "student"):
        model = AutoModelForSequenceClassification.from_pretrained(f"models/tiny/{which}", attn_implementation="eager")
        length = report["word_pieces"]["median"]
        with FlopCounterMode(display=False) as counter:
            model(**latency.random_inputs(tiny.tokenizer(), 1, length))
        assert report[which]["operations"] == counter.get_total_flops()
        assert report[which]["parameters"] == sum(weights.numel() for weights in model.parameters())
    size = Path("models/tiny/onnx/model_int8.onnx").stat().st_size
    assert report["student"]["int8"]["megabytes"] == pytest.approx(size / 1e6, abs=0.05)


def test_scores_stand_beside_the_milliseconds_of_the_same_model(world):
    run_stage("benchmark")
    report, scores, export = (
        json.loads(Path(f"metrics/tiny/{name}.json").read_text()) for name in ("benchmark", "scores", "export")
    )
    found = {
        row["model"]: (float(row["milliseconds"]), float(row["score"]))
        for row in read("metrics/tiny/benchmark/score.csv")
    }
    assert found == {
        "teacher pytorch": (report["teacher"]["pytorch"]["p50"], scores["teacher"]["accuracy"]),
        **{
            f"student {form}": (report["student"][form]["p50"], export[form]["accuracy"])
            for form in ("pytorch", "onnx", "int8")
        },
    }


def test_the_teacher_s_files_are_thrown_away(world):
    before = {path for path in Path("models").rglob("*") if path.suffix == ".onnx"}
    run_stage("benchmark")
    assert {path for path in Path("models").rglob("*") if path.suffix == ".onnx"} == before
