"""Teachers that are no model of the student's family: the stages from `finetune_teacher` to `evaluate`."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from tiny import run_stage

from pipeline.tinybert import tasks
from pipeline.tinybert.core import settings
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.data import rows
from pipeline.tinybert.distillation import transfer_set
from pipeline.tinybert.distillation.teacher_logits import TeacherLogits
from pipeline.tinybert.models import checkpoints, ensembles
from pipeline.tinybert.models.families import TEACHER_FAMILIES

THEIRS = "data/raw/finetune_teacher"


@pytest.fixture
def with_teacher(world):
    """``with_teacher(*families, kind, words, **changes)``: a task whose teachers have these encoders, with the
    tokenizer ``words`` or one of their kind; gives back its name.
    """

    def make(*families: str, kind: str = "tiny", words=None, **changes) -> str:
        for family in families:
            tiny.write_family(Path(THEIRS, family), family, words)
        encoders = [f"{THEIRS}/{family}" for family in families]
        changes |= {"finetune_teacher.encoder": encoders[0] if len(encoders) == 1 else encoders}
        changes |= {"finetune_teacher.epochs": 1}
        if kind == "tiny":
            tiny.write_params(world / "params.yaml", **changes)
        else:
            tiny.write_task(world, kind, **changes)
            for stage in ("prepare", "general_student", "augment"):
                run_stage(stage, kind)
        run_stage("finetune_teacher", kind)
        return kind

    return make


def teacher_logits(name: str) -> list[np.ndarray]:
    """For each sequence of the transfer set, its rows of logits."""
    logits = TeacherLogits.load(Path("data", name, "teacher_logits"))
    return np.split(logits.values[:], logits.starts[:][1:-1])


@pytest.mark.parametrize("family", ["mpnet", "xlm-roberta"])
def test_texts_get_the_logits_that_the_teacher_gives_with_its_own_tokenizer(with_teacher, family):
    name = with_teacher(family)
    run_stage("distill_intermediate")
    task = tasks.load(settings.load(), name)
    model, tokenizer = (
        task.load_model(Path("models", name, "teacher")).eval(),
        checkpoints.tokenizer("models/tiny/teacher"),
    )
    for row, found in zip(list(transfer_set.rows(task, name))[:5], teacher_logits(name), strict=False):
        inputs = tokenizer(row["text"], truncation=True, max_length=32, return_tensors="pt")
        with torch.no_grad():
            np.testing.assert_allclose(found, model(**inputs).logits, atol=1e-4)


@pytest.mark.parametrize("words", [None, tiny.tokenizer()], ids=["own tokenizer", "the student's tokenizer"])
@pytest.mark.parametrize("family", ["mpnet", "modernbert", *TEACHER_FAMILIES])
def test_a_student_learns_all_that_a_teacher_of_another_family_can_teach(with_teacher, family, words, capfd):
    weights = {f"distill_intermediate.losses.{part}": 1 for part in ("embeddings", "hidden", "attention", "relations")}
    layer_map = {"distill_intermediate.layer_map": [1, 3]}  # of a ModernBERT, those without local attention
    name = with_teacher(family, words=words, **weights, **layer_map)
    run_stage("distill_intermediate")
    curves = {path.stem for path in Path("metrics", name, "distill_intermediate", "plots").rglob("*.tsv")}
    attention = {"attention"} if family not in TEACHER_FAMILIES and (words or family == "mpnet") else set()
    assert curves == {"loss", "embeddings", "hidden", "relations", *attention}
    assert ("distill_intermediate.losses.attention:" in capfd.readouterr().out) == (not attention)


def test_attention_scores_of_layers_with_local_attention_are_not_learned(with_teacher, capfd):
    weights = {"distill_intermediate.losses.attention": 1, "distill_intermediate.layer_map": [1, 2]}
    name = with_teacher("modernbert", words=tiny.tokenizer(), **weights)
    run_stage("distill_intermediate")
    assert not list(Path("metrics", name, "distill_intermediate", "plots").rglob("attention.tsv"))
    reason = "a layer has local attention, and its scores of far positions mean nothing"
    assert (
        f"distill_intermediate.losses.attention: attention scores are not learned: {reason}" in capfd.readouterr().out
    )


@pytest.mark.parametrize("kind", ["named_entities", "question_answering"])
def test_a_student_learns_from_a_teacher_with_another_tokenizer(with_teacher, kind, capfd):
    name = with_teacher("roberta", kind=kind)
    for stage in ("distill_intermediate", "distill_prediction"):
        run_stage(stage, kind)
    reason = "the tokenizers of student and teacher cut texts into different pieces"
    assert (
        f"distill_intermediate.losses.attention: attention scores are not learned: {reason}" in capfd.readouterr().out
    )
    known = [not np.isnan(values).any() for values in teacher_logits(name) if len(values)]
    assert np.mean(known) > 0.9
    curves = {path.stem for path in Path("metrics", name, "distill_intermediate", "plots").rglob("*.tsv")}
    assert {"hidden", "embeddings"} <= curves and "attention" not in curves
    assert json.loads(Path("metrics", name, "distill_prediction", "validation.json").read_text())["rows"] > 0


def test_of_several_teachers_the_student_learns_the_mean_logits_and_each_is_scored(with_teacher):
    name = with_teacher("mpnet", "xlm-roberta", **{"finetune_teacher.seeds": [1, 2]})
    for stage in ("distill_intermediate", "distill_prediction", "evaluate"):
        run_stage(stage)
    task = tasks.load(settings.load(), name)
    folders = ensembles.folders(Path("models", name, "teacher"))
    assert [folder.name for folder in folders] == ["teacher", "2", "3", "4"]
    members = [(task.load_model(folder).eval(), checkpoints.tokenizer(folder)) for folder in folders]
    assert [type(model).__name__[:5] for model, _ in members] == ["MPNet", "MPNet", "XLMRo", "XLMRo"]
    for row, found in zip(list(transfer_set.rows(task, name))[:3], teacher_logits(name), strict=False):
        inputs = [read(row["text"], truncation=True, max_length=32, return_tensors="pt") for _, read in members]
        with torch.no_grad():
            logits = [model(**own).logits.numpy() for (model, _), own in zip(members, inputs, strict=True)]
        np.testing.assert_allclose(found, np.mean(logits, axis=0), atol=1e-4)
    validation = json.loads(Path("metrics", name, "finetune_teacher", "validation.json").read_text())
    scores = json.loads(Path("metrics", name, "scores.json").read_text())
    assert len(validation["teachers"]) == len(scores["teachers"]) == 4


@pytest.mark.parametrize("has_test", [True, False])
def test_a_file_of_predictions_takes_the_teacher_s_place(world, has_test, capfd):
    prepared = {part: list(rows.read(f"data/tiny/prepared/{part}.jsonl")) for part in ("train", "test")}
    answers = [
        {"text": row["text"], **{name: 0.9 if name == row["label"] else 0.1 for name in ("negative", "positive")}}
        for row in prepared["train"] + has_test * prepared["test"]
    ]
    Path("data/raw/tiny/teacher").mkdir()
    rows.write("data/raw/tiny/teacher/answers.jsonl", answers)
    tiny.write_params(world / "params.yaml", **{"finetune_teacher.predictions": "data/raw/tiny/teacher/answers.jsonl"})
    for stage in ("finetune_teacher", "distill_intermediate", "distill_prediction", "evaluate", "export"):
        run_stage(stage)
    total = rows.count("data/tiny/augmented/rows.jsonl") + rows.count("data/tiny/unlabelled/rows.jsonl")
    printed = capfd.readouterr().out
    assert "the intermediate stage is skipped" in printed
    found = f"{32 * has_test} of 32 rows of test, 112 of 112 rows of train, 0 of 16 rows of validation"
    assert f"answers.jsonl has predictions for {found}, 0 of 60 rows of unlabelled" in printed
    known = [not np.isnan(values).any() for values in teacher_logits("tiny")]
    assert sum(known) == len(prepared["train"]) and f"{total - sum(known)} of {total} rows are left out" in printed
    scores = json.loads(Path("metrics/tiny/scores.json").read_text())
    if has_test:
        assert scores["teacher"]["accuracy"] == 1 and scores["retention"] == scores["student"]["accuracy"]
    else:
        assert "teacher" not in scores and scores["retention"] is None
        assert "retention unknown: the teacher's file of predictions lacks test rows" in printed
    for stage in ("benchmark", "package"):
        run_stage(stage)
    assert "distilled from predictions of another system" in Path("models/tiny/release/README.md").read_text()


def test_a_file_without_any_row_to_learn_from_is_refused(world):
    Path("data/raw/tiny/teacher").mkdir()
    rows.write("data/raw/tiny/teacher/answers.jsonl", [{"id": "other-1", "negative": 0.5, "positive": 0.5}])
    tiny.write_params(world / "params.yaml", **{"finetune_teacher.predictions": "data/raw/tiny/teacher/answers.jsonl"})
    with pytest.raises(UserError, match="^finetune_teacher.predictions: answers.jsonl has none of the 112 rows of tra"):
        run_stage("finetune_teacher")


def test_a_teacher_of_few_rows_learns_which_texts_are_alike_and_then_the_labels(world, capfd):
    few = {"finetune_teacher.min_steps": 140, "finetune_teacher.contrast_steps": 10}  # ten epochs of 112 rows
    tiny.write_params(world / "params.yaml", **few)
    run_stage("finetune_teacher")
    result = json.loads(Path("metrics/tiny/finetune_teacher/validation.json").read_text())
    assert result["steps"] == 140 and result["accuracy"] > 0.8
    assert (
        "few rows: 10 contrastive steps before the labels, on pairs of texts of the same or of"
        in capfd.readouterr().out
    )
