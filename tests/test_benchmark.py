"""What `benchmark` reports: sizes and operations as they are, times of everything beside everything; no timing."""

import csv
import json
import re
import shutil
from itertools import chain, product
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import pytest
import tiny
from tiny import run_stage
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForSequenceClassification

from pipeline.tinybert.release import latency, onnx_model

FORMS = ["pytorch", "onnx", "int8", *(["openvino"] if latency.openvino_is_installed() else [])]
MODELS = [f"{which} {form}" for which in ("teacher", "student") for form in FORMS]


def read(path: str) -> list[dict]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_model_is_measured_in_every_situation_and_also_one_text_at_a_time(world):
    tiny.write_params(world / "params.yaml", **{"benchmark.batch_sizes": [3]})
    run_stage("benchmark")
    report = json.loads(Path("metrics/tiny/benchmark.json").read_text())
    records = read("metrics/tiny/benchmark/situations.csv")
    threads = {"1", str(latency.cores())}
    lengths = {str(length) for length in report["word_pieces"].values()}
    situations = set(product(MODELS, "13", lengths, threads))
    found = [(row["model"], row["batch_size"], row["word_pieces"], row["threads"]) for row in records]
    assert set(found) == situations and len(found) == len(situations)
    assert all(0 < float(row["p50"]) <= float(row["p95"]) for row in records)
    assert {row["times_faster"] for row in records if row["model"] == "teacher pytorch"} == {"1"}
    shown = {row["model"]: float(row["milliseconds"]) for row in read("metrics/tiny/benchmark/latency.csv")}
    assert shown == {model: report[model.split()[0]][model.split()[1]]["p50"] for model in MODELS}


@pytest.mark.parametrize(
    ("broken", "missing"), [("write", {"teacher onnx", "teacher int8"}), ("quantise", {"teacher int8"})]
)
def test_a_teacher_that_cannot_be_exported_is_timed_in_the_formats_that_it_has(
    world, monkeypatch, capfd, broken, missing
):
    def fails(*_, **more):
        raise RuntimeError("no such operator\nwith details")

    student = Path("models/tiny/onnx/model.onnx")  # an export takes seconds
    monkeypatch.setattr(onnx_model, "write", lambda path, *_: shutil.copy(student, path))
    monkeypatch.setattr(onnx_model, broken, fails)
    tiny.write_params(world / "params.yaml", **{"benchmark.batch_sizes": [1]})
    run_stage("benchmark")
    missing = missing | ({"teacher openvino"} & {*MODELS} if broken == "write" else set())
    assert {row["model"] for row in read("metrics/tiny/benchmark/latency.csv")} == {*MODELS} - missing
    said = "teacher: its model family 'bert' cannot be written or run as model.*onnx .no such operator.: the times of"
    assert re.search(said, capfd.readouterr().out)
    run_stage("package")
    assert "teacher, int8" not in Path("models/tiny/release/README.md").read_text()


def test_sizes_and_operations_are_those_of_the_files(world):
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


def test_openvino_answers_as_onnxruntime_does(world):
    pytest.importorskip("openvino")
    file, inputs = Path("models/tiny/onnx/model.onnx"), latency.random_inputs(tiny.tokenizer(), 2, 9)
    [expected] = latency.onnx_runner(file, 1)(inputs)
    assert latency.openvino_runner(file, 1)(inputs)["logits"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("limit", "runs"), [(0, 3), (21, 3), (22, 4), (30, 5)])
def test_models_answer_in_turn_until_the_time_is_over_and_the_first_rounds_do_not_count(monkeypatch, limit, runs):
    now, asked = [0.0], []
    monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    seconds = {
        name: chain([9.0] * latency.WARM_UP, times) for name, times in {"a": [1, 2, 3, 1, 1], "b": [5] * 5}.items()
    }

    def answer(name: str) -> None:
        asked.append(name)
        now[0] += next(seconds[name])

    found = latency.measure(
        {name: lambda inputs, name=name: answer(name) for name in seconds}, dict.fromkeys(seconds), limit, "test"
    )
    times = [1, 2, 3, 1, 1][:runs]
    assert {name: of_model["p50"] for name, of_model in found.items()} == {"a": 1000 * median(times), "b": 5000}
    assert found["a"]["p95"] > 2000 and found["b"]["p95"] == 5000
    rounds = ["".join(asked[start : start + 2]) for start in range(0, len(asked), 2)]
    assert rounds == ["ab" if number % 2 == 0 else "ba" for number in range(latency.WARM_UP + runs)]
