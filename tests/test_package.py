"""`package`: the release folder loads as it stands, and its model card holds the measured numbers."""

import csv
import hashlib
import json
from pathlib import Path

import pytest
import ruamel.yaml
import tiny
from huggingface_hub import ModelCard
from tiny import run_stage
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.release import onnx_model

RELEASE = Path("models/tiny/release")


@pytest.fixture
def released(world) -> ModelCard:
    return ModelCard.load(RELEASE / "README.md")


def report(name: str) -> dict:
    return json.loads(Path(f"metrics/tiny/{name}.json").read_text())


def test_the_release_folder_loads_as_it_stands(released):
    model = AutoModelForSequenceClassification.from_pretrained(RELEASE).eval()
    tokenizer = AutoTokenizer.from_pretrained(RELEASE)
    inputs = tokenizer("a great film", return_tensors="pt")
    session = onnx_model.session(RELEASE / "onnx" / "model.onnx")
    outputs = onnx_model.run(session, {name: inputs[name] for name in tokenizer.model_input_names}).logits
    assert outputs.tolist()[0] == pytest.approx(model(**inputs).logits.tolist()[0], abs=1e-5)
    assert (RELEASE / "onnx" / "model_int8.onnx").is_file()


def test_the_cards_code_example_loads_the_model(released, monkeypatch):
    code, names = released.text.split("```python\n")[1].split("```")[0], {}
    monkeypatch.chdir(RELEASE)
    exec(code, names)
    assert names["model"].config.id2label == {0: "negative", 1: "positive"}


def test_the_cards_metadata_are_what_the_hub_expects(released):
    data = released.data
    assert (data.language, data.library_name, data.license) == ("en", "transformers", None)
    assert (data.pipeline_tag, data.model_name) == ("text-classification", "tiny")
    [result] = data.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", report("export")["pytorch"]["accuracy"])


def test_the_cards_numbers_are_the_measured_ones(released):
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in released.text.splitlines() if line[:1] == "|"]
    scores, export, benchmark = (report(name) for name in ("scores", "export", "benchmark"))
    student = scores["student"]
    score, ends = f"{student['accuracy']:.4f}", f"{student['low']:.4f} to {student['high']:.4f}"
    confidence = [f"{student['confidence']:.4f}", f"{student['overconfidence']:+.4f}"]
    assert ["**student**", score, ends, *confidence] in lines
    gain = scores["gain"]
    values = [f"{gain['value']:+.4f}", f"{gain['low']:.4f} to {gain['high']:.4f}"]
    assert ["gain of distillation (student minus baseline)", *values] in lines
    assert ["released student, ONNX, int8", f"{export['int8']['accuracy']:.4f}", ""] in lines
    int8 = benchmark["student"]["int8"]
    times = [str(int8[key]) for key in ("megabytes", "p50", "p95", "times_faster")]
    assert ["student", "ONNX, int8", f"{benchmark['student']['parameters'] / 1e6:.1f} M", *times] in lines
    assert ["data", "data/raw/tiny/rows.csv", "not stated"] in lines
    train = Path("data/tiny/prepared/train.jsonl")
    assert [train.as_posix(), f"`{hashlib.sha256(train.read_bytes()).hexdigest()}`"] in lines


def test_the_card_shows_the_tasks_effective_settings(world):
    tiny.write_params(world / "params.yaml", **{"tasks.tiny.augment": {"variants": 1}, "seed": 7})
    run_stage("package")
    text = ModelCard.load(RELEASE / "README.md").text.split("```yaml\n")[1].split("```")[0]
    shown = ruamel.yaml.YAML(typ="safe", pure=True).load(text)
    assert (shown["augment"]["variants"], shown["augment"]["candidates"], shown["seed"]) == (1, 15, 7)


def test_stated_licences_appear_in_the_card(world):
    stated = {"license": "apache-2.0", "licenses": {"data": "CC0"}}
    tiny.write_params(world / "params.yaml", **{"tasks.tiny.package": stated})
    run_stage("package")
    made = ModelCard.load(RELEASE / "README.md")
    assert made.data.license == "apache-2.0" and "| data | data/raw/tiny/rows.csv | CC0 |" in made.text


@pytest.mark.parametrize("wrong", [{"license": "Apache 2.0"}, {"licenses": {"dota": "CC0"}}])
def test_an_unknown_licence_or_source_is_refused(world, wrong):
    tiny.write_params(world / "params.yaml", **{"tasks.tiny.package": wrong})
    with pytest.raises(UserError, match=r"tasks.tiny.package.licen"):
        run_stage("package")


def test_the_card_says_what_the_scores_are_worth_and_shows_a_threshold(world):
    gain = {"value": -0.031, "low": -0.05, "high": -0.012}
    student = {**report("scores")["student"], "confidence": 0.22, "overconfidence": -0.766}
    scores = {"retention": None, "gain": gain, "student": student}
    for name, changes in {"scores": scores, "export": {"threshold": 1.25}}.items():
        path = Path(f"metrics/tiny/{name}.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    tiny.write_params(world / "params.yaml", **{"finetune_teacher.checkpoint": "data/raw/tiny/teacher"})
    run_stage("package")
    text = ModelCard.load(RELEASE / "README.md").text
    assert "- distillation has not helped: gain -3.1 (-5.0 to -1.2)\n- retention undefined" in text
    assert "- DOUBTFUL: the scores mean nothing if your teacher" in text
    assert "- DOUBTFUL: the student's probabilities are too low: 22.0 % on average, while 98.6 % come true" in text
    assert "is above 1.25" in text


def test_the_plot_pairs_each_models_score_with_its_latency(released):
    scores, export, benchmark = (report(name) for name in ("scores", "export", "benchmark"))
    with open("metrics/tiny/package/score.csv", encoding="utf-8", newline="") as file:
        points = {row["model"]: (float(row["milliseconds"]), float(row["score"])) for row in csv.DictReader(file)}
    forms = {form: (benchmark["student"][form]["p50"], export[form]["accuracy"]) for form in checkpoints.FILES}
    teacher = (benchmark["teacher"]["pytorch"]["p50"], scores["teacher"]["accuracy"])
    assert points == {"teacher pytorch": teacher, **{f"student {form}": point for form, point in forms.items()}}
