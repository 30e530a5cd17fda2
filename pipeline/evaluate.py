"""Score teacher, student and student alone on the test split, by one function.

Where answers need a threshold, it is the best one on validation.
"""

from pathlib import Path

from pipeline.tinybert import models, rows, scoring, settings, stage, tasks, training

MODELS = ("teacher", "student", "student_alone")


def main(name: str) -> None:
    configuration = settings.load()
    recipe = configuration.of("evaluate", name)
    prepared = Path("data", name, "prepared")
    task = tasks.load(prepared / "task.json", configuration.task(name), name)
    train, validation, test = (list(rows.read(prepared / f"{s}.jsonl")) for s in ("train", "validation", "test"))

    predictions, thresholds = {}, {}
    for which in MODELS:
        folder = Path("models", name, which)
        answers = training.answering(task, task.load_model(folder), models.tokenizer(folder))
        if task.needs_threshold:
            thresholds[which] = task.threshold(validation, answers(validation))
        predictions[which] = task.decided(answers(test), thresholds.get(which))
    scores = scoring.report(task, test, predictions, task.trivial_predictions(train, test), recipe, thresholds)
    stage.say(scoring.summary(task, scores))

    with stage.output(Path("metrics", name, "scores.json")) as out:
        rows.write_json(out, scores)
    for which in ("teacher", "student"):
        with stage.output(Path("metrics", name, "confusion", f"{which}.csv")) as out:
            rows.write_csv(out, ["actual", "predicted"], sorted(task.confusion(test, predictions[which])))


if __name__ == "__main__":
    stage.run(main, "task")
