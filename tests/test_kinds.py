"""Every task kind and every model family in every stage."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import transformers
from tiny import PER_TASK, run_stage

from pipeline import report
from pipeline.tinybert.core import settings
from pipeline.tinybert.data import rows
from pipeline.tinybert.models import checkpoints, ensembles
from pipeline.tinybert.report import page

KINDS = {  # task kind → the transformers pipeline that loads its student
    "text_classification": "text-classification",
    "regression": "text-classification",
    "multi_label": "text-classification",
    "named_entities": "token-classification",
    "question_answering": None,  # transformers has no such pipeline any more
}

MODELS = {"teacher", "student", "student_alone"}
UP_TO_EVALUATE = PER_TASK[: PER_TASK.index("evaluate") + 1]


def run_task(world: Path, kind: str, stages: tuple[str, ...] = PER_TASK, **changes) -> dict:
    """Run the stages for a task of this kind in the tiny world. Returns its scores."""
    tiny.write_task(world, kind, **changes)
    for stage in stages:
        run_stage(stage, kind)
    return json.loads(Path("metrics", kind, "scores.json").read_text())


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("kind", KINDS)
def test_every_stage_runs_and_the_student_learns_from_the_teacher(world, teacher_not_exported, kind):
    epochs = {"finetune_teacher.epochs": 6, "distill_prediction.epochs": 6}
    scores = run_task(world, kind, **{"augment.entities": True, **epochs})
    metric = json.loads(Path("metrics", kind, "finetune_teacher", "validation.json").read_text())
    assert scores["retention"] > 0.7, (scores, metric)
    assert 0 < scores["agreement"] <= 1
    assert all((key in scores["student"]) == (kind != "regression") for key in ("calibration_error", "confidence"))
    assert scores["gain"]["low"] <= scores["gain"]["high"]
    for plot in ("calibration", "scores_by_length"):
        assert {record["model"] for record in read_csv(Path("metrics", kind, f"{plot}.csv"))} == MODELS
    unlabelled = list(rows.read(Path("data", kind, "unlabelled", "rows.jsonl")))
    augmented = list(rows.read(Path("data", kind, "augmented", "rows.jsonl")))
    assert len(augmented) > 2 * 112 and len(unlabelled) > 15
    assert all(row.get("label") is row.get("tags") is row.get("answers") is None for row in unlabelled)
    assert len(np.load(Path("data", kind, "teacher_logits", "values.npy"))) > len(augmented)
    kept = list(rows.read(Path("data", kind, "predictions.jsonl")))
    assert len(kept) == scores["test_rows"] and all({"id", "mistake", *MODELS} == row.keys() for row in kept)
    run = report.read_run("here", None, kind, settings.load())
    assert run.resampled["rows"] == len(run.examples) == len(kept) and "rows with a mistake" in page.render([run], [[]])
    if pipeline := KINDS[kind]:
        assert transformers.pipeline(pipeline, model=str(Path("models", kind, "student")))("a good film")


@pytest.mark.parametrize(("kind", "weighted"), [*((kind, False) for kind in KINDS), ("text_classification", True)])
def test_accumulated_batches_have_the_loss_of_one_large_batch(world, kind, weighted):
    def curve(stage: str, size: int, accumulation: int) -> list[float]:
        recipe = {"batch_size": size, "accumulation": accumulation, "dropout": 0, "epochs": 1}
        changes = {f"{stage}.{key}": value for key, value in recipe.items()}
        tiny.write_task(world, kind, **changes, **{"finetune_teacher.class_weights": weighted, **short})
        run_stage(stage, kind)
        lines = Path("metrics", kind, stage, "plots", "metrics", "loss.tsv").read_text().splitlines()[1:]
        return [float(line.split("\t")[1]) for line in lines]

    # batch_size limits the batches of similarity_steps too, and there accumulation would make them no larger
    short = {"augment.variants": 1, "distill_intermediate.epochs": 0, "finetune_teacher.similarity_steps": 0}
    tiny.write_task(world, kind, **short)
    for stage in ("prepare", "general_student"):
        run_stage(stage, kind)
    assert curve("finetune_teacher", 3, 4) == pytest.approx(curve("finetune_teacher", 12, 1), rel=1e-3)
    if weighted:  # only the teacher weighs classes
        return
    for stage in ("augment", "distill_intermediate"):
        run_stage(stage, kind)
    assert curve("distill_prediction", 3, 4) == pytest.approx(curve("distill_prediction", 12, 1), rel=1e-3)


@pytest.mark.parametrize(
    ("family", "kind"),
    [("modernbert", "named_entities"), ("roberta", "text_classification"), ("distilbert", "question_answering")],
)
def test_other_kinds_run_with_other_model_families(world, family, kind):
    """Of single texts, all families do, see test_encoder.py."""
    shutil.rmtree(world / "data" / "raw" / "encoder" / "checkpoint")
    tiny.write_family(world / "data" / "raw" / "encoder" / "checkpoint", family)
    run_stage("encoder")
    epochs = {"finetune_teacher.epochs": 6, "distill_prediction.epochs": 6}
    scores = run_task(world, kind, UP_TO_EVALUATE, **epochs)
    assert scores["retention"] > 0.7, scores
    config = json.loads(Path("models", kind, "student", "config.json").read_text())
    assert config["model_type"] == family
    originals, variants = {}, []
    for row in rows.read(Path("data", kind, "augmented", "rows.jsonl")):
        if row["variant"] and row["id"] in originals:  # no new pair
            variants.append((originals[row["id"]], row))
        else:
            originals[row["id"]] = row
    field = {"named_entities": "words", "text_classification": "pair", "question_answering": "passage"}[kind]
    assert any(original[field] != variant[field] for original, variant in variants)


@pytest.mark.parametrize("start", ["layers", "distillation"])
@pytest.mark.parametrize("family", ["roberta", "electra", "distilbert", "modernbert"])
def test_the_general_student_has_the_encoder_s_model_family(world, family, start):
    shutil.rmtree(world / "data" / "raw" / "encoder" / "checkpoint")
    tiny.write_family(world / "data" / "raw" / "encoder" / "checkpoint", family)
    run_stage("encoder")
    shape = {"layers": 2, "hidden": 24, "heads": 2, "feed_forward": 48 if start == "layers" else 40}
    tiny.write_params(world / "params.yaml", **{"general_student.start": start, "general_student.shape": shape})
    run_stage("general_student")
    student = transformers.AutoModel.from_pretrained("models/tiny/general_student")
    assert checkpoints.shape_of(student.config).model_dump() == shape
    assert student.config.model_type == family


@pytest.mark.parametrize(("plot", "score"), [("calibration", "accuracy"), ("scores_by_length", "score")])
def test_the_weighted_mean_over_bins_equals_the_score(world, plot, score):
    scores = json.loads(Path("metrics/tiny/scores.json").read_text())
    for model in MODELS:
        bins = [line for line in read_csv(Path(f"metrics/tiny/{plot}.csv")) if line["model"] == model]
        counts = [int(line["count"]) for line in bins]
        assert sum(counts) == rows.count("data/tiny/prepared/test.jsonl")
        mean = np.average([float(line[score]) for line in bins], weights=counts)
        assert mean == pytest.approx(scores[model]["accuracy"], abs=1e-4)


def test_more_tests_are_scored_and_submission_files_are_written(world):
    folder = world / "data" / "raw" / "tiny" / "glue"
    pairs = tiny.sentences(160, seed=0)
    parts = {"train": pairs[:110], "matched": pairs[110:130], "mismatched": pairs[130:150], "unlabelled": pairs[150:]}
    for name, part in parts.items():
        lines = [f'"{text}"' + (f",{label}" if name != "unlabelled" else "") for text, label in part]
        header = "text" if name == "unlabelled" else "text,label"
        (folder / f"{name}.csv").parent.mkdir(exist_ok=True)
        (folder / f"{name}.csv").write_text("\n".join([header, *lines]) + "\n")
    source = {
        "location": "data/raw/tiny/glue",
        "labels": {"negative": 0, "positive": 1},
        "splits": {"train": "train.csv", "test": "matched.csv"},
        "more_tests": {"mismatched": "mismatched.csv"},
        "submissions": {"TINY.tsv": "unlabelled.csv"},
    }
    tiny.write_params(world / "params.yaml", **{"tasks.tiny.source": source})
    run_stage("prepare")
    run_stage("evaluate")
    scores = json.loads(Path("metrics/tiny/scores.json").read_text())
    assert set(scores["mismatched"]) == MODELS
    assert scores["mismatched"]["teacher"]["accuracy"] > 0.8
    for model in ("teacher", "student"):
        header, *lines = Path("data/tiny/submission", model, "TINY.tsv").read_text().splitlines()
        assert header == "index\tprediction"
        assert [line.split("\t")[0] for line in lines] == [str(number) for number in range(10)]
        correct = sum(
            line.split("\t")[1] == str(int(label == "positive"))
            for line, (_, label) in zip(lines, parts["unlabelled"], strict=True)
        )
        assert correct >= 8


def test_the_user_s_own_teacher_is_scored_and_not_trained(world):
    own = world / "data" / "raw" / "tiny" / "teacher"
    shutil.copytree(world / "models" / "tiny" / "teacher", own)
    tiny.write_params(world / "params.yaml", **{"finetune_teacher.checkpoint": "data/raw/tiny/teacher"})
    run_stage("finetune_teacher")
    teacher, expected = (
        transformers.AutoModelForSequenceClassification.from_pretrained(folder).state_dict()
        for folder in ("models/tiny/teacher", own)
    )
    assert all((teacher[name] == weights).all() for name, weights in expected.items())
    assert json.loads(Path("metrics/tiny/finetune_teacher/validation.json").read_text())["epoch"] == 0


def test_several_own_teachers_are_taken_as_they_are_and_each_is_scored(world):
    own, models = Path("data/raw/tiny/teacher"), ["teacher", "student_alone"]
    for model in models:
        shutil.copytree(Path("models/tiny", model), own / model)
    expected = [(own / model / "model.safetensors").read_bytes() for model in models]
    tiny.write_params(world / "params.yaml", **{"finetune_teacher.checkpoint": [str(own / model) for model in models]})
    run_stage("prepare")
    run_stage("finetune_teacher")
    folders = ensembles.folders(Path("models/tiny/teacher"))
    assert [(folder / "model.safetensors").read_bytes() for folder in folders] == expected
    scores = json.loads(Path("metrics/tiny/finetune_teacher/validation.json").read_text())
    assert len(scores["teachers"]) == 2


def test_a_teacher_no_better_than_a_trivial_predictor_is_doubtful_and_the_run_goes_on(world, capsys):
    """A few rows of validation do not tell whether a teacher is of any use."""
    tiny.write_params(world / "params.yaml", **{"finetune_teacher.learning_rate": 1e-12})
    run_stage("finetune_teacher")
    printed = capsys.readouterr().out
    assert (
        "teacher: DOUBTFUL: 0.5000 on 16 rows of validation is no better than a trivial predictor's 0.5000" in printed
    )
    assert "labels of tasks.tiny.source, or try other values of finetune_teacher.learning_rate and min_steps" in printed
    run_stage("evaluate")
    assert "retention undefined: the teacher is no better than a trivial predictor on test" in capsys.readouterr().out
    assert json.loads(Path("metrics/tiny/scores.json").read_text())["retention"] is None


def test_an_own_teacher_no_better_than_a_trivial_predictor_is_doubtful(world, capsys):
    own = world / "data" / "raw" / "tiny" / "teacher"
    shutil.copytree(world / "models" / "tiny" / "teacher", own)
    config = json.loads((own / "config.json").read_text())
    config["id2label"] = {"0": "positive", "1": "negative"}  # swapped
    (own / "config.json").write_text(json.dumps(config))
    tiny.write_params(world / "params.yaml", **{"finetune_teacher.checkpoint": "data/raw/tiny/teacher"})
    run_stage("finetune_teacher")
    printed = capsys.readouterr().out
    assert "no better than a trivial predictor's" in printed and "another finetune_teacher.checkpoint\n" in printed


def test_a_file_of_predictions_no_better_than_a_trivial_predictor_is_doubtful(world, capsys):
    lines = []
    for split in ("train", "validation"):
        for line in Path(f"data/tiny/prepared/{split}.jsonl").read_text().splitlines():
            row = json.loads(line)
            wrong = {"positive": "negative", "negative": "positive"}[row["label"]]
            lines.append(json.dumps({"text": row["text"], "label": wrong}) + "\n")
    (world / "data/raw/tiny/teacher").mkdir()
    (world / "data/raw/tiny/teacher/answers.jsonl").write_text("".join(lines))
    tiny.write_params(world / "params.yaml", **{"finetune_teacher.predictions": "data/raw/tiny/teacher/answers.jsonl"})
    run_stage("finetune_teacher")
    printed = capsys.readouterr().out
    assert "no better than a trivial predictor's" in printed and "the file of finetune_teacher.predictions\n" in printed


def test_evaluate_names_what_is_doubtful_about_the_scores(world, capsys):
    """An own teacher that may know the test rows, and a student that has not gained."""
    tiny.write_params(world / "params.yaml", **{"finetune_teacher.checkpoint": "data/raw/tiny/teacher"})
    shutil.rmtree("models/tiny/student")
    shutil.copytree("models/tiny/student_alone", "models/tiny/student")
    path = Path("metrics/tiny/distill_prediction/validation.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "accuracy": 0.25}))
    run_stage("evaluate")
    printed = capsys.readouterr().out
    assert "test rows could show: gain +0.0 (0.0 to 0.0); retention" in printed
    assert "DOUBTFUL: distillation has not helped (on validation: student 0.2500, baseline" in printed
    assert "DOUBTFUL: the scores mean nothing if your teacher" in printed


@pytest.mark.parametrize("stage", ["finetune_teacher", "finetune_student"])
def test_dropout_is_the_setting_or_by_default_the_checkpoint_s(world, stage):
    def loss(dropout: float | None) -> str:
        recipe = {"dropout": dropout, "epochs": 1, "learning_rate": 4.0e-3}
        tiny.write_params(world / "params.yaml", **{f"{stage}.{key}": value for key, value in recipe.items()})
        run_stage(stage)
        return Path("metrics", "tiny", stage, "plots", "metrics", "loss.tsv").read_text()

    for config in world.glob("models/**/config.json"):
        dropout = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.1)
        config.write_text(json.dumps({**json.loads(config.read_text()), **dropout}))
    assert loss(None) == loss(0.1) != loss(0.0)
