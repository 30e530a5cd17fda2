"""The student to ship: in PyTorch, as ONNX and as int8 ONNX, compared with each other and scored on the test split.

int8 is scored row by row, as it is served: the scales of its activations are those of a whole batch.
"""

import tempfile
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from pipeline.tinybert import tasks
from pipeline.tinybert.core import settings, stage
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import log
from pipeline.tinybert.core.output import output, write_json
from pipeline.tinybert.data import rows, word_vectors
from pipeline.tinybert.evaluation import scoring
from pipeline.tinybert.evaluation.scoring import DIGITS
from pipeline.tinybert.models import checkpoints, inference
from pipeline.tinybert.models.inference import EvaluationSet, pytorch_forward
from pipeline.tinybert.release import onnx_model, vocabulary
from pipeline.tinybert.tasks import Task

KEY = "export.frequent_words"
BATCHES = {"onnx": inference.BATCH, "int8": 1}


def main(name: str) -> None:
    configuration = settings.load()
    recipe = configuration.of("export", name)
    prepared, folder = Path("data", name, "prepared"), Path("models", name, "student")
    task = tasks.load(prepared / "task.json", configuration.task(name), name)
    parts = {part: list(rows.read(prepared / f"{part}.jsonl")) for part in ("train", "validation", "test")}
    student, tokenizer = task.load_model(folder), checkpoints.tokenizer(folder)

    with output(Path("models", name, "onnx")) as out:
        if recipe.frequent_words is None:
            report = exported(out, task, student, tokenizer, parts, recipe)
        else:
            read = inference.encode(task, parts["train"], tokenizer)["input_ids"]
            kept = pieces_kept(tokenizer, read, recipe.frequent_words)
            with tempfile.TemporaryDirectory() as whole:
                before = exported(Path(whole), task, student, tokenizer, parts, recipe)
            smaller = vocabulary.trim(student, tokenizer, kept)
            again = inference.encode(task, parts["train"], smaller)["input_ids"]
            vocabulary.check(tokenizer, read, smaller, again, KEY)
            report = {**exported(out, task, student, smaller, parts, recipe), "whole_vocabulary": before}
    with output(Path("metrics", name, "export.json")) as out:
        write_json(out, report)


def pieces_kept(tokenizer, read: list[list[int]], frequent_words: int) -> list[int]:
    """The ids of the word-pieces of train, as it was ``read``, and of so many words."""
    words = word_vectors.load(Path("data", "word_vectors"))[0].index_to_key[:frequent_words]
    kept = vocabulary.needed(tokenizer, read, words, KEY)
    log(f"vocabulary: {len(kept)} of {len(tokenizer)} word-pieces stay")
    return kept


def exported(
    out: Path,
    task: Task,
    student: PreTrainedModel,
    tokenizer,
    parts: dict[str, list[rows.Row]],
    recipe: settings.Export,
) -> dict:
    """Write the student into the folder in all forms; sizes and scores of each. UserError where ONNX differs."""
    checkpoints.save(out, student, tokenizer)
    files = {which: out / file for which, file in checkpoints.FILES.items()}
    onnx_model.write(files["onnx"], student, task, tokenizer, recipe.opset)
    onnx_model.quantise(files["onnx"], files["int8"], recipe.per_channel, recipe.reduce_range)

    test, threshold = EvaluationSet(task, parts["test"], tokenizer), None
    with pytorch_forward(task, student) as forward:
        logits = {"pytorch": test.logits(forward, description="pytorch")}
        scoring.check_finite(logits["pytorch"], str(student.name_or_path))
        if task.needs_threshold:
            validation = EvaluationSet(task, parts["validation"], tokenizer)
            threshold = task.best_threshold(parts["validation"], validation.predictions(validation.logits(forward)))
    for which, batch_size in BATCHES.items():
        logits[which] = test.logits(onnx_model.onnx_forward(task, files[which]), batch_size, which)
    predictions = {which: task.apply_threshold(test.predictions(found), threshold) for which, found in logits.items()}
    report = scoring.scores_of(task, test.rows, predictions)
    for which, file in files.items():
        report[which]["megabytes"] = round(file.stat().st_size / 1e6, 1)
    for which in BATCHES:
        difference, share = compared(test, logits, predictions, which)
        if which == "onnx":
            check(difference, share, recipe)
        report[which] |= {"largest_difference": float(f"{difference:.0e}"), "equal_predictions": round(share, DIGITS)}
    said = (f"{which} {found[task.metric]:.4f} ({found['megabytes']} MB)" for which, found in report.items())
    log(f"{task.metric} on test: {', '.join(said)}")
    return {"word_pieces": len(tokenizer), "threshold": threshold and round(threshold, DIGITS), **report}


def compared(
    test: EvaluationSet, logits: dict[str, list[np.ndarray]], predictions: dict[str, list], which: str
) -> tuple[float, float]:
    """The largest difference of a logit from PyTorch's, and the share of rows of which both say the same."""
    ours, theirs = (np.concatenate(logits[model]) for model in ("pytorch", which))
    share = test.task.agreement(test.rows, predictions["pytorch"], predictions[which])
    return float(np.abs(ours - theirs).max()), share


def check(difference: float, share: float, recipe: settings.Export) -> None:
    """ONNX has to answer as PyTorch does: UserError where it does not."""
    if not difference <= recipe.largest_difference or share < recipe.equal_predictions:
        raise UserError(
            f"ONNX does not answer as PyTorch does: a logit differs by {difference:.2g} (export.largest_difference:"
            f" {recipe.largest_difference:g}), {100 * share:.2f} % of the predictions on test are equal"
            f" (export.equal_predictions: {recipe.equal_predictions:g}): try another export.opset, or allow more where"
            " logits are large"
        )


if __name__ == "__main__":
    stage.run(main, "task")
