"""Make the teacher: fine-tune one or several encoders on the labels, or take the user's own model or predictions."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.tinybert import tasks
from pipeline.tinybert.core import curves, launch, resume, settings
from pipeline.tinybert.core.log import log
from pipeline.tinybert.core.output import output, write_json
from pipeline.tinybert.core.settings import Numerics
from pipeline.tinybert.data import locations, rows
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.models import checkpoints, ensembles
from pipeline.tinybert.models.inference import EvaluationSet, pytorch_forward
from pipeline.tinybert.tasks import Task
from pipeline.tinybert.training import fine_tuning, own_teacher, predictions, starts
from pipeline.tinybert.training.fine_tuning import Trained
from pipeline.tinybert.training.plan import Result
from pipeline.tinybert.training.teacher_start import TeacherStart

ENCODER = Path("models/pretrained/encoder")
STAGE = "finetune_teacher"
OTHER_VALUES = "try other values of finetune_teacher.learning_rate and min_steps"
Members = list[tuple[Trained, Any]]  # the teachers and their tokenizers


def main(name: str) -> None:
    configuration = settings.load()
    recipe = configuration.of(STAGE, name)
    prepared = Path("data", name, "prepared")
    task = tasks.load(configuration, name)
    train, validation_rows = (list(rows.read(prepared / f"{split}.jsonl")) for split in ("train", "validation"))

    if recipe.predictions:
        take_predictions(task, name, recipe.predictions, train, validation_rows, prepared)
        return
    if recipe.checkpoints:
        members = load_own_teachers(task, name, recipe.checkpoints, validation_rows)
    else:
        members = fine_tune_teachers(task, train, validation_rows, recipe, configuration.numerics)
    teacher = members[0][0] if len(members) == 1 else first_with_score_of_all(task, members, validation_rows)
    remedy = "use another finetune_teacher.checkpoint" if recipe.checkpoints else OTHER_VALUES
    log_score(task, teacher.result.score, train, validation_rows, name, remedy)

    with output(Path("models", name, "teacher")) as out:
        for number, (member, tokenizer) in enumerate(members, 1):
            checkpoints.save(out if number == 1 else out / str(number), member.model, tokenizer)
    with output(Path("metrics", name, STAGE)) as out:
        fine_tuning.write_result(out, task, teacher)


def load_own_teachers(task: Task, name: str, folders: list[str], validation_rows: list[Row]) -> Members:
    """The user's own teachers, as they are."""
    members: Members = []
    for location in folders:
        model, tokenizer = own_teacher.load(task, location, locations.own_teacher_folder(name))
        validation = EvaluationSet(task, validation_rows, tokenizer)
        with pytorch_forward(task, model) as forward:
            logits = validation.logits(forward)
        log_doubt(task, validation_rows, validation.predictions(logits), "checkpoint")
        members.append((Trained(model, Result(validation.score(logits)[task.metric])), tokenizer))
    return members


def fine_tune_teachers(
    task: Task, train: list[Row], validation_rows: list[Row], recipe: settings.FinetuneTeacher, numerics: Numerics
) -> Members:
    """A teacher from each encoder and seed of the settings."""
    weights = task.class_weights(train) if recipe.class_weights else None
    encoders = [own_teacher.encoder(encoder) for encoder in recipe.encoders]
    members: Members = []
    for encoder, tokenizer in encoders or [(ENCODER, checkpoints.tokenizer(ENCODER))]:
        validation = EvaluationSet(task, validation_rows, tokenizer)
        for seed in recipe.seeds or [numerics.seed]:
            of_seed = numerics.model_copy(update={"seed": seed})
            run = f"training{f'-{len(members) + 1}' if members else ''}"
            first = TeacherStart(encoder, tokenizer, task, train, recipe, of_seed, run)
            with starts.start(first) as (start, adjusted):
                new_teacher = partial(task.load_model, start, seed)
                trained = fine_tuning.fine_tune(new_teacher, train, validation, adjusted, of_seed, STAGE, weights, run)
            members.append((trained, tokenizer))
    return members


def first_with_score_of_all(task: Task, members: Members, validation_rows: list[Row]) -> Trained:
    """The first of several teachers, with the score of their mean logits and the score of each."""
    scores = [member.result.score for member, _ in members]
    with ensembles.opened(task, [(member.model, tokenizer) for member, tokenizer in members]) as ensemble:
        read, logits = ensemble.logits(validation_rows)
    score = read.score(ensembles.mean(logits))[task.metric]
    log(f"{len(members)} teachers: {', '.join(f'{own:.4f}' for own in scores)}; their mean logits: {score:.4f}")
    first = members[0][0]
    return replace(first, result=replace(first.result, score=score), member_scores=scores)


def log_score(task: Task, score: float, train: list[Row], validation: list[Row], name: str, remedy: str) -> None:
    """Log the teacher's score beside a trivial predictor's. ``remedy``: what else to do if it is no better."""
    trivial = task.score(validation, task.trivial_predictions(train, validation))[task.metric]
    log(f"teacher: {task.metric} {score:.4f} on validation, a trivial predictor {trivial:.4f}")
    if score <= trivial:
        log(
            f"teacher: DOUBTFUL: {score:.4f} on {len(validation)} rows of validation is no better than a"
            f" trivial predictor's {trivial:.4f}: if so on test too, there is nothing to distil. Check the labels of"
            f" tasks.{name}.source, or {remedy}"
        )


def log_doubt(task: Task, validation: list[Row], predictions: list, setting: str) -> None:
    """Log what is wrong with the predictions of the user's own teacher that its score does not show."""
    if doubt := task.doubt(validation, predictions):
        log(f"teacher: DOUBTFUL: {doubt}: correct finetune_teacher.{setting}")


def take_predictions(
    task: Task, name: str, location: str, train: list[Row], validation: list[Row], prepared: Path
) -> None:
    """Write the logits of a file of predictions, and their score on validation if it has all of its rows."""
    # Test and unlabelled rows are no dependencies in dvc.yaml: they change only checks and the log.
    parts = {path.stem: list(rows.read(path)) for path in sorted(prepared.glob("*.jsonl"))}
    parts["unlabelled"] = list(rows.read(Path("data", name, "unlabelled", "rows.jsonl"), may_be_empty=True))
    known = predictions.read(task, location, locations.own_teacher_folder(name), parts)
    logits, score = known.of_all(validation), math.nan
    log("teacher: a file of predictions: no teacher is trained")
    if logits is None:
        log("teacher: not scored on validation: the file lacks some of its rows")
    else:
        found = task.predictions(logits, None, validation)
        score = task.score(validation, found)[task.metric]
        log_score(task, score, train, validation, name, "correct the file of finetune_teacher.predictions")
        log_doubt(task, validation, found, "predictions")
    with output(Path("models", name, "teacher")) as out:
        known.save(out)
    with output(Path("metrics", name, STAGE)) as out:
        curves.write(out, {})
        write_json(
            out / "validation.json",
            {task.metric: None if logits is None else round(score, 4), "epoch": 0, "rows": 0, "steps": 0},
        )


if __name__ == "__main__":
    launch.run(main, "task", within=resume.stage_folder)
