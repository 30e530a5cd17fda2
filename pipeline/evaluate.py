"""Score teacher, student and baseline (the student fine-tuned without distillation) on all test splits.

If a task needs a threshold for "no answer", the stage uses the best one on validation. It writes the student's and the
teacher's predictions for splits without labels to `data/<task>/submission`, in the format of GLUE's server.
`predictions.jsonl` has all models' predictions for each test row, by a hash of the row, without texts.
`resampled/student.jsonl` has the student's scores on resamples, which `review.py` compares.
"""

from collections.abc import Iterable
from itertools import product
from pathlib import Path

from pipeline.tinybert import tasks
from pipeline.tinybert.core import settings, stage
from pipeline.tinybert.core.log import log
from pipeline.tinybert.core.output import output, read_json, write_csv, write_json
from pipeline.tinybert.data import rows
from pipeline.tinybert.evaluation import answers, scoring, verdicts
from pipeline.tinybert.tasks import Task

MODELS = ("teacher", "student", "student_alone")


def main(name: str) -> None:
    configuration = settings.load()
    recipe, source = configuration.of("evaluate", name), configuration.task(name).source
    prepared = Path("data", name, "prepared")
    task = tasks.load(configuration, name)
    tests = ("test", *source.more_tests, *source.submissions)
    parts = {part: list(rows.read(prepared / f"{part}.jsonl")) for part in ("train", "validation", *tests)}
    test = parts["test"]

    answers_of = {which: answers.predict_tests(task, Path("models", name, which), parts, tests) for which in MODELS}
    predictions = {
        part: {which: found.predictions[part] for which, found in answers_of.items() if part in found.predictions}
        for part in tests
    }
    scores, curves = score_models(task, source, recipe, parts, predictions, answers_of)
    log(scoring.summary(task, scores))
    log_doubts(configuration, name, task, scores)

    with output(Path("metrics", name, "scores.json")) as out:
        write_json(out, scores)
    mistakes = task.surest_mistakes(test, predictions["test"]["student"], answers_of["student"].logits)
    with output(Path("data", name, "predictions.jsonl")) as out:
        rows.write(out, scoring.without_texts(task, test, predictions["test"], mistakes))
    with output(Path("metrics", name, "resampled", "student.jsonl")) as out:
        students = {part: (parts[part], predictions[part]["student"]) for part in ("test", *source.more_tests)}
        rows.write(out, scoring.comparable(task, students))
    for file, (columns, records) in plots(task, test, predictions["test"], scores, curves).items():
        with output(Path("metrics", name, file)) as out:
            write_csv(out, columns, records)
    with output(Path("data", name, "submission")) as out:
        write_submissions(out, task, source, parts["train"], predictions)


def score_models(
    task: Task,
    source: settings.Source,
    recipe: settings.Evaluate,
    parts: dict[str, list[rows.Row]],
    predictions: dict[str, dict[str, list]],
    answers_of: dict[str, answers.Answers],
) -> tuple[dict, dict[str, list[scoring.Bin]]]:
    """What scores.json holds, and each model's reliability curve on test.

    ``predictions``: test set → model → a prediction for each row. ``answers_of``: model → its answers.
    """
    test = parts["test"]
    thresholds = {which: found.threshold for which, found in answers_of.items() if task.needs_threshold}
    curves = {
        which: scoring.reliability(*task.calibration(test, predicted, answers_of[which].logits))
        for which, predicted in predictions["test"].items()
    }
    trivial = task.trivial_predictions(parts["train"], test)
    scores: dict = scoring.report(task, test, predictions["test"], trivial, recipe, curves, thresholds)
    members = enumerate(answers_of["teacher"].member_predictions, 1)
    if of_teachers := {f"teacher_{number}": predicted for number, predicted in members}:
        scores["teachers"] = scores_of_teachers = scoring.scores_of(task, test, of_teachers)
        log(f"teachers alone: {', '.join(f'{found[task.metric]:.4f}' for found in scores_of_teachers.values())}")
    for part in source.more_tests:
        scores[part] = scoring.scores_of(task, parts[part], predictions[part])
    return scores, curves


def log_doubts(configuration: settings.Settings, name: str, task: Task, scores: dict) -> None:
    """Log why the scores are doubtful, and advice if distillation has not helped."""
    on_validation = [score_on_validation(name, which, task.metric) for which in verdicts.STUDENT_STAGES]
    for doubt in verdicts.all_doubts(name, scores, configuration.teacher_may_know_test(name), on_validation):
        log(f"DOUBTFUL: {doubt}")


def write_submissions(
    out: Path,
    task: Task,
    source: settings.Source,
    train: list[rows.Row],
    predictions: dict[str, dict[str, list]],
) -> None:
    """Write a file of predictions for each split without labels and each of teacher and student."""
    for file, which in product(source.submissions, ("teacher", "student")):
        if which not in predictions[file]:
            continue
        values = task.submission_values(predictions[file][which], source, train)
        (out / which).mkdir(exist_ok=True)
        write_csv(out / which / file, ["index", "prediction"], enumerate(values), delimiter="\t")


def score_on_validation(name: str, stage: str, metric: str) -> float:
    """The score that a stage has written."""
    return read_json(Path("metrics", name, stage, "validation.json"))[metric]


def plots(
    task: Task, test: list[rows.Row], predictions: dict[str, list], scores: dict, curves: dict[str, list[scoring.Bin]]
) -> dict[str, tuple[list[str], Iterable[tuple]]]:
    """File → columns and records of each plot of the test split."""
    intervals = ((which, *(scores[which][key] for key in (task.metric, "low", "high"))) for which in predictions)
    bins = ((which, *bin) for which, curve in curves.items() for bin in curve)
    by_length = scoring.by_length(task, test, predictions)
    confused = {
        which: sorted(task.confusion(test, predictions[which])) if which in predictions else []
        for which in ("teacher", "student")
    }
    return {
        "scores.csv": (["model", "score", "low", "high"], intervals),
        "calibration.csv": (["model", "confidence", "accuracy", "count"], bins),
        "scores_by_length.csv": (["model", "metric", "length", "score", "count"], by_length),
        **{f"confusion/{which}.csv": (["actual", "predicted"], pairs) for which, pairs in confused.items()},
    }


if __name__ == "__main__":
    stage.run(main, "task")
