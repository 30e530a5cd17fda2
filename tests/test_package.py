"""The folder to ship: it loads as it is, and its card says what was measured."""

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


def measured(name: str) -> dict:
    return json.loads(Path(f"metrics/tiny/{name}.json").read_text())


def test_the_folder_loads_as_it_is(released):
    model = AutoModelForSequenceClassification.from_pretrained(RELEASE).eval()
    tokenizer = AutoTokenizer.from_pretrained(RELEASE)
    inputs = tokenizer("a great film", return_tensors="pt")
    running = onnx_model.session(RELEASE / "onnx" / "model.onnx")
    found = onnx_model.run(running, {name: inputs[name] for name in tokenizer.model_input_names}).logits
    assert found.tolist()[0] == pytest.approx(model(**inputs).logits.tolist()[0], abs=1e-5)
    assert (RELEASE / "onnx" / "model_int8.onnx").is_file()


def test_the_code_of_the_card_loads_the_folder(released, monkeypatch):
    code, found = released.text.split("```python\n")[1].split("```")[0], {}
    monkeypatch.chdir(RELEASE)
    exec(code, found)
    assert found["model"].config.id2label == {0: "negative", 1: "positive"}


def test_the_card_s_data_are_those_that_the_hub_reads(released):
    data = released.data
    assert (data.language, data.library_name, data.license) == ("en", "transformers", None)
    assert (data.pipeline_tag, data.model_name) == ("text-classification", "tiny")
    [result] = data.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", measured("export")["pytorch"]["accuracy"])


def test_the_card_s_numbers_are_the_measured_ones(released):
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in released.text.splitlines() if line[:1] == "|"]
    scores, export, benchmark = (measured(name) for name in ("scores", "export", "benchmark"))
    found = scores["student"]
    assert ["**student**", f"{found['accuracy']:.4f}", f"{found['low']:.4f} to {found['high']:.4f}"] in lines
    assert ["student, shipped, ONNX, int8", f"{export['int8']['accuracy']:.4f}", ""] in lines
    found = benchmark["student"]["int8"]
    times = [str(found[key]) for key in ("megabytes", "p50", "p95", "times_faster")]
    assert ["student", "ONNX, int8", f"{benchmark['student']['parameters'] / 1e6:.1f} M", *times] in lines
    assert ["data", "data/raw/rows.csv", "not stated"] in lines
    train = Path("data/tiny/prepared/train.jsonl")
    assert [train.as_posix(), f"`{hashlib.sha256(train.read_bytes()).hexdigest()}`"] in lines


def test_the_card_s_parameters_are_the_task_s_own(world):
    tiny.write_params(world / "params.yaml", **{"tasks.tiny.augment": {"variants": 1}, "seed": 7})
    run_stage("package")
    text = ModelCard.load(RELEASE / "README.md").text.split("```yaml\n")[1].split("```")[0]
    found = ruamel.yaml.YAML(typ="safe", pure=True).load(text)
    assert (found["augment"]["variants"], found["augment"]["candidates"], found["seed"]) == (1, 15, 7)


def test_licences_stand_where_they_are_stated(world):
    stated = {"license": "apache-2.0", "licenses": {"data": "CC0"}}
    tiny.write_params(world / "params.yaml", **{"tasks.tiny.package": stated})
    run_stage("package")
    made = ModelCard.load(RELEASE / "README.md")
    assert made.data.license == "apache-2.0" and "| data | data/raw/rows.csv | CC0 |" in made.text


@pytest.mark.parametrize("wrong", [{"license": "Apache 2.0"}, {"licenses": {"dota": "CC0"}}])
def test_a_licence_that_the_hub_does_not_know_is_refused(world, wrong):
    tiny.write_params(world / "params.yaml", **{"tasks.tiny.package": wrong})
    with pytest.raises(UserError, match=r"tasks.tiny.package.licen"):
        run_stage("package")


def test_a_score_that_keeps_nothing_and_a_threshold_are_told(world):
    for name, changes in {"scores": {"retention": None}, "export": {"threshold": 1.25}}.items():
        path = Path(f"metrics/tiny/{name}.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    run_stage("package")
    text = ModelCard.load(RELEASE / "README.md").text
    assert "of the teacher's score" not in text and "margin is above 1.25" in text


def test_scores_stand_beside_the_milliseconds_of_the_same_model(released):
    scores, export, benchmark = (measured(name) for name in ("scores", "export", "benchmark"))
    with open("metrics/tiny/package/score.csv", encoding="utf-8", newline="") as file:
        found = {row["model"]: (float(row["milliseconds"]), float(row["score"])) for row in csv.DictReader(file)}
    forms = {form: (benchmark["student"][form]["p50"], export[form]["accuracy"]) for form in checkpoints.FILES}
    teacher = (benchmark["teacher"]["pytorch"]["p50"], scores["teacher"]["accuracy"])
    assert found == {"teacher pytorch": teacher, **{f"student {form}": point for form, point in forms.items()}}
