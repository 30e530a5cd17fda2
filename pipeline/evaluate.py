"""Score teacher, student and student alone on the test split, by one function."""

from pathlib import Path

from pipeline.tinybert import models, rows, scoring, settings, stage, tasks, training

MODELS = ("teacher", "student", "student_alone")


def main(name: str) -> None:
    configuration = settings.load()
    recipe = configuration.of("evaluate", name)
    prepared = Path("data", name, "prepared")
    task = tasks.load(prepared / "task.json", configuration.task(name))
    train, test = (list(rows.read(prepared / f"{split}.jsonl")) for split in ("train", "test"))

    predictions = {}
    for which in MODELS:
        folder = Path("models", name, which)
        logits = training.predict(task.load_model(folder), models.tokenizer(folder), task, test)
        predictions[which] = task.predictions(logits)
    scores = scoring.report(task, test, predictions, task.trivial_predictions(train, test), recipe)
    stage.say(scoring.summary(task, scores))

    with stage.output(Path("metrics", name, "scores.json")) as out:
        rows.write_json(out, scores)
    for which in ("teacher", "student"):
        with stage.output(Path("metrics", name, "confusion", f"{which}.csv")) as out:
            rows.write_csv(out, ["actual", "predicted"], scoring.confusion(test, predictions[which]))


if __name__ == "__main__":
    stage.run(main, "task")
