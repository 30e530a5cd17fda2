"""Assemble the release folder: the student for PyTorch and ONNX, its tokenizer, and a model card with its results."""

from pathlib import Path
from typing import Any

from pipeline.tinybert import tasks
from pipeline.tinybert.augmentation.word_replacement import with_variants
from pipeline.tinybert.core import curves, settings, stage
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import log
from pipeline.tinybert.core.output import output, read_json, write_csv, write_json
from pipeline.tinybert.data import rows
from pipeline.tinybert.evaluation import summary, verdicts
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.models.formats import FILES
from pipeline.tinybert.release import model_card, onnx_model, release_folder, stand_alone
from pipeline.tinybert.training.plan import fitted

REPORTS = ("scores", "export", "benchmark")
TRAININGS = {
    "finetune_teacher": "validation.json",
    "distill_intermediate": "training.json",
    "distill_prediction": "validation.json",
    "finetune_student": "validation.json",
}
SPLITS = ("train", "validation", "test")


def main(name: str) -> None:
    configuration = settings.load()
    prepared, models = Path("data", name, "prepared"), Path("models", name)
    task = tasks.load(configuration, name)
    check_whole(task, models / "onnx")
    metrics = Path("metrics", name)
    facts = {file: read_json(metrics / f"{file}.json") for file in REPORTS}
    trainings = read_trainings(configuration, name)
    scores = facts["scores"]
    on_validation = [trainings[stage][task.metric] for stage in verdicts.STUDENT_STAGES]
    doubts = verdicts.all_doubts(name, scores, configuration.teacher_may_know_test(name), on_validation)
    verdict = [verdicts.gain(scores), verdicts.retention(scores), *(f"DOUBTFUL: {doubt}" for doubt in doubts)]
    entry = configuration.task(name)

    with output(models / "release") as out:
        serving = release_folder.serving_settings(task, entry, facts["export"]["threshold"])
        release_folder.write(models / "onnx", out, serving)
        row = example_row(configuration.of("package", name).example, prepared / "test.jsonl")
        example = row, stand_alone.Model(out).predict([row])[0]
        release_folder.write_evaluation_results(out, model_card.evaluation_results(task, entry.source, facts["export"]))
        released = {path.relative_to(out).as_posix(): path for path in sorted(out.rglob("*")) if path.is_file()}
        files = {path.as_posix(): path for path in (prepared / f"{part}.jsonl" for part in SPLITS)}
        numerics = configuration.numerics
        card = model_card.of(
            task, name, configuration, numerics, facts, trainings, verdict, example, {**files, **released}
        )
        card.save(out / "README.md")
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    with output(Path("metrics", name, "package")) as out:
        write_csv(out / "score.csv", ["model", "milliseconds", "score"], scores_and_times(task.metric, facts))
    with output(Path("metrics", "summary", f"{name}.json")) as out:
        write_json(out, summary.of_task(task.metric, **facts))
    log(f"models/{name}/release: {size / 1e6:.1f} MB; the model card is its README.md")


def read_trainings(configuration: settings.Settings, name: str) -> dict[str, dict]:
    """Stage → facts of its training: rows, steps, batch size, epochs, …; for `augment`, the number of variants.

    The encoder is among them only if its masked language model was trained.
    """
    metrics, train = Path("metrics", name), Path("data", name, "prepared", "train.jsonl")
    found = {
        stage: with_batches(configuration.quietly(stage, name), read_json(metrics / stage / file))
        for stage, file in TRAININGS.items()
    }
    found["distill_intermediate"]["losses"] = trained_losses(metrics / "distill_intermediate")
    count = rows.count(train)
    variants = with_variants(configuration.quietly("augment", name), count).variants
    recipe = configuration.encoder.masked_language_model.model_dump(include={"steps", "batch_size", "learning_rate"})
    encoder = {"encoder": recipe} if trained_losses(Path("metrics/pretrained/encoder")) else {}
    return {**encoder, "augment": {"rows": count, "variants": variants}, **found}


def with_batches(recipe: Any, training: dict) -> dict:
    """A stage's ``training`` with the size of its batches and its number of epochs, which for few rows differ from the
    stage's settings ``recipe``.
    """
    if not training.get("steps"):
        return training
    accumulation = getattr(recipe, "accumulation", 1)
    fit = fitted(training["rows"], recipe.epochs, recipe.batch_size, accumulation, recipe.min_steps)
    epochs = round(training["steps"] / fit.steps_per_epoch, 1)  # not those planned: with `patience`, there may be fewer
    return {**training, "batch_size": fit.batch_size, "epochs": int(epochs) if epochs.is_integer() else epochs}


def trained_losses(metrics: Path) -> set[str]:
    """The names of the curves of a stage that have points; empty if the stage has trained nothing."""
    tables = sorted((metrics / curves.TABLES).glob("*.tsv"))
    return {path.stem for path in tables if len(path.read_text(encoding="utf-8").splitlines()) > 1}


def check_whole(task: tasks.Task, folder: Path) -> None:
    """Raise UserError if a file of the student is damaged: the release folder would contain it."""
    task.load_model(folder)
    checkpoints.tokenizer(folder)
    for form in ("onnx", "int8"):
        onnx_model.session(folder / FILES[form])


def example_row(own: dict | None, test: Path) -> dict:
    """The input that the card shows: the user's ``own``, or a row of test. Raises UserError if it has other fields."""
    row = release_folder.example(rows.read(test))
    if own is None:
        log("the model card shows a row of test as its example: if it is private, set package.example")
        return row
    if own.keys() != row.keys():
        raise UserError(
            f"package.example: expected the fields {', '.join(row)}, found {', '.join(map(str, own)) or 'none'}"
        )
    for field, value in own.items():
        words = value if isinstance(row[field], list) and isinstance(value, list) else [value]
        if type(value) is not type(row[field]) or not all(isinstance(word, str) for word in words):
            expected = (
                "a list of texts" if isinstance(row[field], list) else "a text, in quotes if it looks like a number"
            )
            raise UserError(f"package.example: {field}: {value!r}: expected {expected}")
    return own


def scores_and_times(metric: str, facts: dict[str, dict]) -> list[tuple[str, float, float]]:
    """(model, p50 in milliseconds, score on test) of the teacher in PyTorch, if it is a model, and of each format of
    the student.
    """
    scores = {("teacher", "pytorch"): facts["scores"]["teacher"]} if "teacher" in facts["benchmark"] else {}
    scores |= {("student", form): facts["export"][form] for form in FILES}
    return [
        (f"{which} {form}", facts["benchmark"][which][form]["p50"], score[metric])
        for (which, form), score in scores.items()
    ]


if __name__ == "__main__":
    stage.run(main, "task")
