"""`package`: the release folder loads as it stands, and its model card holds the measured numbers."""

import csv
import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
import ruamel.yaml
import tiny
from huggingface_hub import ModelCard, parse_eval_result_entries
from tiny import run_stage
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pipeline import package
from pipeline.tinybert.core import markdown, settings
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.data import rows
from pipeline.tinybert.evaluation import verdicts
from pipeline.tinybert.models.formats import FILES
from pipeline.tinybert.release import model_card, onnx_model, stand_alone

RELEASE = Path("models/tiny/release")


@pytest.fixture
def released(world) -> ModelCard:
    return ModelCard.load(RELEASE / "README.md")


def report(name: str) -> dict:
    return json.loads(Path(f"metrics/tiny/{name}.json").read_text())


def change_report(name: str, **values) -> None:
    Path(f"metrics/tiny/{name}.json").write_text(json.dumps({**report(name), **values}))


def packaged() -> ModelCard:
    run_stage("package")
    return ModelCard.load(RELEASE / "README.md")


def lines_of(card: ModelCard) -> list[list[str]]:
    """The cells of all tables."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in card.text.splitlines() if line[:1] == "|"]


def settings_of(card: ModelCard) -> dict:
    text = card.text.split("```yaml\n")[1].split("```")[0]
    return ruamel.yaml.YAML(typ="safe", pure=True).load(text)


def test_the_release_folder_loads_as_it_stands(released):
    model = AutoModelForSequenceClassification.from_pretrained(RELEASE).eval()
    tokenizer = AutoTokenizer.from_pretrained(RELEASE)
    inputs = tokenizer("a great film", return_tensors="pt")
    session = onnx_model.session(RELEASE / "onnx" / "model.onnx")
    outputs = onnx_model.run(session, {name: inputs[name] for name in tokenizer.model_input_names}).logits
    assert outputs.tolist()[0] == pytest.approx(model(**inputs).logits.tolist()[0], abs=1e-5)
    assert (RELEASE / "onnx" / "model_int8.onnx").is_file()


def test_the_cards_pipeline_of_transformers_gives_the_probability_of_each_class(released, monkeypatch):
    *code, call = released.text.split("```python\n")[1].split("\n```")[0].splitlines()
    monkeypatch.chdir(RELEASE)
    names: dict = {}
    exec("\n".join(code), names)
    [found] = eval(call, names)
    assert {answer["label"] for answer in found} == {"negative", "positive"}
    assert sum(answer["score"] for answer in found) == pytest.approx(1, abs=1e-3)


def test_the_card_shows_an_input_and_the_answer_of_the_released_file(released):
    code = released.text.split("```python\n")[2].split("```")[0]
    call, shown = code.splitlines()[-2:]
    row, *_ = json.loads(call.removeprefix("model.predict(").removesuffix(")"))
    assert row["text"] in {row["text"] for row in rows.read("data/tiny/prepared/test.jsonl")}
    assert json.loads(shown.removeprefix("# ")) == stand_alone.Model(RELEASE).predict([row])


def test_the_card_shows_the_input_of_the_settings_in_place_of_a_row_of_test(released):
    tiny.write_params(Path("params.yaml"), **{"package.example": {"text": "no row of test"}})
    run_stage("package")
    assert 'model.predict([{"text": "no row of test"}])' in (RELEASE / "README.md").read_text()
    tiny.write_params(Path("params.yaml"), **{"package.example": {"question": "no row of test"}})
    with pytest.raises(UserError, match="^package.example: expected the fields text, found question$"):
        run_stage("package")
    tiny.write_params(Path("params.yaml"), **{"package.example": {"text": 2020}})
    with pytest.raises(UserError, match="^package.example: text: 2020: expected a text, in quotes if it looks like"):
        run_stage("package")


def test_a_line_break_or_bar_does_not_end_a_cell_of_a_table():
    assert markdown.table(["label"], [["a|b\nc"]]).splitlines()[-1] == "| a\\|b c |"


def test_transformers_js_cuts_texts_where_the_scored_model_does(released):
    config, tokenizer = (json.loads((RELEASE / name).read_text()) for name in ("config.json", "tokenizer_config.json"))
    assert tokenizer["model_max_length"] == config["tinybert"]["max_length"] == 32


def test_the_card_says_what_the_model_is_for_and_lists_the_folders_files(released):
    assert "to give a text one of the labels negative, positive, in the language `en`" in released.text
    assert "Text after 32 word pieces is not read (transformers: `truncation=True`)." in released.text
    for path in RELEASE.rglob("*"):
        if path.is_file() and path.name != "README.md":
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            assert f"| {path.relative_to(RELEASE).as_posix()} | `{digest}` |" in released.text


def test_what_is_on_the_hub_is_named_for_the_hub(world):
    hub = {"encoder.checkpoint": "hub:owner/encoder@0a1", "tasks.tiny.source.location": "hub:owner/films@0b2"}
    tiny.write_params(world / "params.yaml", **hub, **{"tasks.tiny.metric": "macro_f1"})
    for stage in verdicts.STUDENT_STAGES:
        change_report(f"{stage}/validation", macro_f1=0.5)
    data = packaged().data
    assert (data.base_model, data.datasets, data.metrics) == (["owner/encoder"], ["owner/films"], ["f1"])
    [result] = data.eval_results
    score = report("export")["pytorch"]["macro_f1"]
    assert (result.metric_type, result.metric_args, result.metric_value) == ("f1", {"average": "macro"}, score)
    assert (result.dataset_type, result.dataset_revision) == ("owner/films", "0b2")
    [written] = parse_eval_result_entries(ruamel.yaml.YAML(typ="safe").load(RELEASE / ".eval_results" / "results.yaml"))
    assert (written.dataset_id, written.dataset_revision, written.value) == ("owner/films", "0b2", score)


def test_models_and_datasets_that_a_task_states_stand_in_place_of_those_of_its_locations(world):
    """A package, a folder or a file has a source on the hub that its location does not tell."""
    stated = {"base_model": "owner/encoder", "datasets": ["films", "owner/more"]}
    hub = {"encoder.checkpoint": "hub:owner/other@0a1", "tasks.tiny.source.location": "hub:owner/rows@0b2"}
    tiny.write_params(world / "params.yaml", **hub, **{"tasks.tiny.package": stated})
    data = packaged().data
    assert (data.base_model, data.datasets) == ("owner/encoder", ["films", "owner/more"])


@pytest.mark.parametrize("wrong", [{"base_model": "hub:owner/encoder"}, {"datasets": []}, {"datasets": ["a b"]}])
def test_what_is_no_name_of_the_hub_is_refused(world, wrong):
    tiny.write_params(world / "params.yaml", **{"tasks.tiny.package": wrong})
    with pytest.raises(UserError, match=rf"tasks.tiny.package.{next(iter(wrong))}"):
        run_stage("package")


def test_strict_f1_is_said(world):
    task = tiny.task(["O", "B-PER", "I-PER"], metric="f1", kind="named_entities")
    scores = {"f1": 0.5, "low": 0.4, "high": 0.6, "value": 0.0}
    scores = {"teacher": scores, "student": scores, "student_alone": scores, "gain": scores}
    export = {"threshold": None, **dict.fromkeys(FILES, {"f1": 0.5})}
    assert model_card.STRICT_F1 in model_card.score_table(task, scores, export)
    source = settings.Source(location="data/raw/rows.conll")
    assert model_card.result(task, source, "tiny", export).metric_name == "f1, strict"


def test_the_cards_metadata_are_what_the_hub_expects(released):
    data = released.data
    assert (data.language, data.library_name, data.license) == ("en", "transformers", None)
    assert (data.pipeline_tag, data.model_name) == ("text-classification", "tiny")
    [result] = data.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", report("export")["pytorch"]["accuracy"])


def test_the_cards_numbers_are_the_measured_ones(released):
    lines = lines_of(released)
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
    card = packaged()
    shown = settings_of(card)
    assert set(shown["general_student"]) == {"start", "shape", "layers"}  # no other start
    assert "null" not in card.text.split("```yaml\n")[1] and "finetune_student" in shown
    assert (shown["augment"]["variants"], shown["augment"]["candidates"], shown["seed"]) == (1, 15, 7)


def test_the_card_shows_batches_epochs_and_variants_as_they_were_and_not_as_they_were_asked_for(world):
    asked = {"finetune_student": {"batch_size": 32, "epochs": 3, "min_steps": 500}, "augment": {"variants": "auto"}}
    tiny.write_params(world / "params.yaml", **{f"tasks.tiny.{stage}": own for stage, own in asked.items()})
    change_report("finetune_student/validation", rows=180, steps=500, learning_rate=0.002, temperature=1.5)
    titles, *lines = (line for line in lines_of(packaged()) if line[0] in ("stage", "finetune_student", "augment"))
    shown = {line[0]: dict(zip(titles, line, strict=True)) for line in lines}
    student = {"rows": "180", "batch size": "8", "epochs": "21.7", "steps": "500", "learning rate": "0.002"}
    assert student.items() <= shown["finetune_student"].items()
    train = rows.count("data/tiny/prepared/train.jsonl")
    assert {"rows": str(train), "variants": "20"}.items() <= shown["augment"].items()


@pytest.mark.parametrize(("steps", "epochs"), [(230, 10), (0, None)], ids=["early stopping", "no training"])
def test_the_card_counts_the_epochs_that_took_place(steps, epochs):
    recipe = settings.load(tiny.ROOT / "params.yaml").finetune_student
    recipe = recipe.model_copy(update={"batch_size": 32, "epochs": 3, "min_steps": 500})
    assert package.with_batches(recipe, {"rows": 180, "steps": steps}).get("epochs") == epochs


def test_the_card_says_which_of_the_teachers_states_the_student_learned(world):
    curves = Path("metrics/tiny/distill_intermediate/plots/metrics")
    learned = "the student learned the teacher's embeddings, hidden states and attention scores first, then its logits"
    assert learned in packaged().text
    (curves / "attention.tsv").unlink()
    assert "learned the teacher's embeddings and hidden states first, then its logits" in packaged().text
    (curves / "embeddings.tsv").unlink()
    (curves / "hidden.tsv").rename(curves / "relations.tsv")
    tiny.write_params(world / "params.yaml", **{"tasks.tiny.distill_prediction": {"targets": "labels"}})
    expected = "learned the teacher's self-attention relations first, then the labels of the training rows"
    assert expected in packaged().text
    (curves / "relations.tsv").unlink()
    tiny.write_params(world / "params.yaml")
    assert "the student learned the teacher's logits.\n" in packaged().text


def test_the_card_names_all_of_several_teachers(world):
    shutil.copytree("models/tiny/teacher", "second")
    config = json.loads(Path("second/config.json").read_text())
    Path("second/config.json").write_text(json.dumps({**config, "intermediate_size": 7}))
    shutil.move("second", "models/tiny/teacher/2")
    text = packaged().text
    assert re.search(r"2 larger models \(\d+ layers of [^;]*; \d+ layers of [^;]*feed-forward 7\) that were fine", text)
    assert "learned the first teacher's embeddings, hidden states and attention scores first, then the mean of" in text


def test_the_card_lists_no_setting_of_a_training_that_a_file_of_predictions_replaces(world):
    file = "data/raw/tiny/teacher/answers.jsonl"
    tiny.write_params(world / "params.yaml", **{"finetune_teacher.predictions": file})
    shown = settings_of(packaged())
    assert shown["finetune_teacher"] == {"predictions": file} and "distill_intermediate" not in shown


def test_the_card_lists_the_settings_of_a_masked_language_model_only_if_one_was_trained(world):
    curve = Path("metrics/pretrained/encoder/plots/metrics/loss.tsv")
    curve.write_text("step\tloss\n3\t4.5\n")
    card = packaged()
    assert settings_of(card)["encoder"]["masked_language_model"]["steps"] == 3
    assert any(line[0] == "encoder" and "3" in line for line in lines_of(card))
    curve.write_text("step\tloss\n")
    card = packaged()
    assert settings_of(card)["encoder"]["masked_language_model"] == {"train": "if_missing"}
    tiny.write_params(world / "params.yaml", **{"tasks.tiny.unlabelled": None})  # it then has general texts
    assert set(settings_of(packaged())["encoder"]["masked_language_model"]) == {"train", "text"}


def test_the_card_says_how_transformers_js_loads_the_second_name_of_the_int8_model(released):
    weights = 'session_options: {externalData: [{path: "model_quantized.onnx", data: "onnx/model_quantized.onnx"}]}'
    [line] = [line for line in released.text.splitlines() if '`dtype: "int8"`' in line]
    assert weights in line


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
    change_report("scores", retention=None, gain=gain, student=student)
    change_report("export", threshold=1.25)
    change_report("distill_prediction/validation", accuracy=0.61)
    tiny.write_params(world / "params.yaml", **{"finetune_teacher.checkpoint": "data/raw/tiny/teacher"})
    run_stage("package")
    text = ModelCard.load(RELEASE / "README.md").text
    assert "- distillation has not helped: gain -3.1 (-5.0 to -1.2)\n- retention undefined" in text
    assert "- DOUBTFUL: distillation has not helped (on validation: student 0.6100, baseline" in text
    assert "- DOUBTFUL: the scores mean nothing if your teacher" in text
    assert "- DOUBTFUL: the student's probabilities are too low: 22.0 % on average, while 98.6 % are right" in text
    assert "is above 1.25" in text


def test_the_plot_pairs_each_models_score_with_its_latency(released):
    scores, export, benchmark = (report(name) for name in ("scores", "export", "benchmark"))
    with open("metrics/tiny/package/score.csv", encoding="utf-8", newline="") as file:
        points = {row["model"]: (float(row["milliseconds"]), float(row["score"])) for row in csv.DictReader(file)}
    forms = {form: (benchmark["student"][form]["p50"], export[form]["accuracy"]) for form in FILES}
    teacher = (benchmark["teacher"]["pytorch"]["p50"], scores["teacher"]["accuracy"])
    assert points == {"teacher pytorch": teacher, **{f"student {form}": point for form, point in forms.items()}}
