"""The student as ONNX, and as ONNX in int8: compared with PyTorch, and scored, on the test split.

int8 is scored row by row, as it is served: the scales of its activations are those of a whole batch.
"""

from pathlib import Path

import numpy as np

from pipeline.tinybert import models, onnx_model, rows, scoring, settings, stage, tasks, training
from pipeline.tinybert.stage import UserError
from pipeline.tinybert.trainer import EVALUATION_BATCH
from pipeline.tinybert.training import Scored


def main(name: str) -> None:
    configuration = settings.load()
    recipe = configuration.of("export", name)
    prepared, folder = Path("data", name, "prepared"), Path("models", name, "student")
    task = tasks.load(prepared / "task.json", configuration.task(name), name)
    student, tokenizer = task.load_model(folder), models.tokenizer(folder)
    test = Scored(task, list(rows.read(prepared / "test.jsonl")), tokenizer)
    logits = {"pytorch": training.predict(student, tokenizer, test)}
    threshold = None
    if task.needs_threshold:
        validation = list(rows.read(prepared / "validation.jsonl"))
        threshold = task.threshold(validation, training.answering(task, student, tokenizer)(validation))

    with stage.output(Path("models", name, "onnx")) as out:
        whole, int8 = out / "model.onnx", out / "model_int8.onnx"
        student.config.save_pretrained(out)
        models.save_tokenizer(out, tokenizer)
        onnx_model.write(whole, student, task, tokenizer, recipe.opset)
        onnx_model.quantise(whole, int8, recipe.per_channel, recipe.reduce_range)
        for which, path, batch_size in (("onnx", whole, EVALUATION_BATCH), ("int8", int8, 1)):
            stage.say(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")
            logits[which] = onnx_model.predict(onnx_model.session(path), tokenizer, test, batch_size)
        predictions = {which: task.decided(test.predictions(found), threshold) for which, found in logits.items()}
        report = scoring.scores_of(task, test.rows, predictions)
        for which in ("onnx", "int8"):
            report[which] |= compared(test, logits, predictions, which)
        check(report["onnx"], recipe)
    stage.say(f"{task.metric} on test: " + ", ".join(f"{which} {report[which][task.metric]:.4f}" for which in report))

    with stage.output(Path("metrics", name, "export.json")) as out:
        rows.write_json(out, report)


def compared(test: Scored, logits: dict[str, np.ndarray], predictions: dict[str, list], which: str) -> dict[str, float]:
    """The largest difference of a logit from PyTorch's, and the share of rows of which both say the same."""
    ours, theirs = (np.concatenate(test.kept(logits[model])) for model in ("pytorch", which))
    triples = zip(test.rows, predictions["pytorch"], predictions[which], strict=True)
    return {
        "largest_difference": float(f"{np.abs(ours - theirs).max():.0e}"),
        "equal_predictions": round(float(np.mean([test.task.agree(*triple) for triple in triples])), scoring.DIGITS),
    }


def check(onnx: dict[str, float], recipe: settings.Export) -> None:
    """ONNX has to answer as PyTorch does: UserError where it does not."""
    found, share = onnx["largest_difference"], onnx["equal_predictions"]
    if not found <= recipe.largest_difference or share < recipe.equal_predictions:
        raise UserError(
            f"ONNX does not answer as PyTorch does: a logit differs by {found:g} (export.largest_difference:"
            f" {recipe.largest_difference:g}), {100 * share:.2f} % of the predictions on test are equal"
            f" (export.equal_predictions: {recipe.equal_predictions:g}): try another export.opset"
        )


if __name__ == "__main__":
    stage.run(main, "task")
