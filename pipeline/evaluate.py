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

    found = {which: answers.of(task, Path("models", name, which), parts, tests) for which in MODELS}
    predictions = {
        part: {which: of_model.predictions[part] for which, of_model in found.items() if part in of_model.predictions}
        for part in tests
    }
    thresholds = {which: of_model.threshold for which, of_model in found.items() if task.needs_threshold}
    curves = {
        which: scoring.reliability(*task.calibration(test, predicted, found[which].logits))
        for which, predicted in predictions["test"].items()
    }
    trivial = task.trivial_predictions(parts["train"], test)
    scores = scoring.report(task, test, predictions["test"], trivial, recipe, curves, thresholds)
    if alone := {f"teacher_{number}": own for number, own in enumerate(found["teacher"].alone, 1)}:
        scores["teachers"] = of_each = scoring.scores_of(task, test, alone)
        log(f"teachers alone: {', '.join(f'{of_one[task.metric]:.4f}' for of_one in of_each.values())}")
    for part in source.more_tests:
        scores[part] = scoring.scores_of(task, parts[part], predictions[part])
    log(scoring.summary(task, scores))
    on_validation = [score_on_validation(name, which, task.metric) for which in verdicts.STUDENT_STAGES]
    for doubt in verdicts.all_doubts(name, scores, configuration.teacher_may_know_test(name), on_validation):
        log(f"DOUBTFUL: {doubt}")

    with output(Path("metrics", name, "scores.json")) as out:
        write_json(out, scores)
    mistakes = task.surest_mistakes(test, predictions["test"]["student"], found["student"].logits)
    with output(Path("data", name, "predictions.jsonl")) as out:
        rows.write(out, scoring.without_texts(task, test, predictions["test"], mistakes))
    with output(Path("metrics", name, "resampled", "student.jsonl")) as out:
        students = {part: (parts[part], predictions[part]["student"]) for part in ("test", *source.more_tests)}
        rows.write(out, scoring.comparable(task, students))
    for file, (columns, records) in plots(task, test, predictions["test"], scores, curves).items():
        with output(Path("metrics", name, file)) as out:
            write_csv(out, columns, records)
    with output(Path("data", name, "submission")) as out:
        for file, which in product(source.submissions, ("teacher", "student")):
            if which not in predictions[file]:
                continue
            values = task.submission_values(predictions[file][which], source, parts["train"])
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
