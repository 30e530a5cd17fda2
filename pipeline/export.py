"""Write the student to ship in PyTorch, as ONNX and as int8 ONNX; compare the three and score them on the test split.

The int8 model is scored one row at a time, because it scales activations over the whole batch and serves single rows.
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
from pipeline.tinybert.models.formats import FILES
from pipeline.tinybert.models.inference import EvaluationSet, pytorch_forward
from pipeline.tinybert.release import onnx_model, vocabulary
from pipeline.tinybert.tasks import Task

KEY = "export.frequent_words"
BATCHES = {"onnx": inference.BATCH, "int8": 1}


def main(name: str) -> None:
    configuration = settings.load()
    recipe = configuration.of("export", name)
    prepared, folder = Path("data", name, "prepared"), Path("models", name, "student")
    task = tasks.load(configuration, name)
    parts = {part: list(rows.read(prepared / f"{part}.jsonl")) for part in ("train", "validation", "test")}
    student, tokenizer = task.load_model(folder), checkpoints.tokenizer(folder)

    with output(Path("models", name, "onnx")) as out:
        if recipe.frequent_words is None:
            report, of_int8 = write_and_score(out, task, student, tokenizer, parts, recipe)
        else:
            train_ids = inference.encode(task, parts["train"], tokenizer)["input_ids"]
            needed = needed_word_pieces(tokenizer, train_ids, recipe.frequent_words)
            with tempfile.TemporaryDirectory() as folder_of_untrimmed:
                untrimmed, _ = write_and_score(Path(folder_of_untrimmed), task, student, tokenizer, parts, recipe)
            trimmed = vocabulary.trim(student, tokenizer, needed)
            trimmed_ids = inference.encode(task, parts["train"], trimmed)["input_ids"]
            vocabulary.check(tokenizer, train_ids, trimmed, trimmed_ids, KEY)
            report, of_int8 = write_and_score(out, task, student, trimmed, parts, recipe)
            report["whole_vocabulary"] = untrimmed
    with output(Path("metrics", name, "export.json")) as out:
        write_json(out, report)
    with output(Path("metrics", name, "resampled", "int8.jsonl")) as out:  # which `review.py` compares
        rows.write(out, scoring.comparable(task, {"test": (parts["test"], of_int8)}))


def needed_word_pieces(tokenizer, train_ids: list[list[int]], frequent_words: int) -> list[int]:
    """The ids of the word pieces of the training rows and of the ``frequent_words`` most frequent words."""
    words = word_vectors.load(Path("data", "word_vectors"))[0].index_to_key[:frequent_words]
    needed = vocabulary.needed(tokenizer, train_ids, words, KEY)
    log(f"vocabulary: {len(needed)} of {len(tokenizer)} word pieces stay")
    return needed


def write_and_score(
    out: Path,
    task: Task,
    student: PreTrainedModel,
    tokenizer,
    parts: dict[str, list[rows.Row]],
    recipe: settings.Export,
) -> tuple[dict, list]:
    """Write the student into a folder in all formats. Returns the size and scores of each, and the int8 model's
    predictions for test.

    Raises UserError if the ONNX outputs differ from PyTorch's.
    """
    files, fused_layers = write_formats(out, task, student, tokenizer, recipe)
    test = EvaluationSet(task, parts["test"], tokenizer)
    logits, threshold = compute_logits(test, parts["validation"], student, files)
    predictions = {
        which: task.apply_threshold(test.predictions(of_model), threshold) for which, of_model in logits.items()
    }
    report = scoring.scores_of(task, test.rows, predictions)
    for which, file in files.items():
        report[which]["megabytes"] = round(file.stat().st_size / 1e6, 1)
    for which, difference in compare_formats(test, logits, predictions, recipe).items():
        report[which] |= difference
    report["int8"]["fused_layers"] = fused_layers
    shown = (f"{which} {scores[task.metric]:.4f} ({scores['megabytes']} MB)" for which, scores in report.items())
    log(f"{task.metric} on test: {', '.join(shown)}")
    header = {"word_pieces": len(tokenizer), "threshold": threshold and round(threshold, DIGITS)}
    return {**header, **report}, predictions["int8"]


def write_formats(
    out: Path, task: Task, student: PreTrainedModel, tokenizer, recipe: settings.Export
) -> tuple[dict[str, Path], int]:
    """Write the model files. Returns format → file, and in how many layers int8 has fused attention."""
    checkpoints.save(out, student, tokenizer)
    files = {which: out / file for which, file in FILES.items()}
    onnx_model.write(files["onnx"], student, task, tokenizer, recipe.opset)
    fused_layers = onnx_model.quantise(
        files["onnx"], files["int8"], student.config, tokenizer, recipe.per_channel, recipe.reduce_range
    )
    log(
        f"int8: fused attention in {fused_layers} layers"
        if fused_layers
        else "int8: attention is not fused: it is local, or was not recognised, or the answers would change"
    )
    return files, fused_layers


def compute_logits(
    test: EvaluationSet, validation_rows: list[rows.Row], student: PreTrainedModel, files: dict[str, Path]
) -> tuple[dict[str, list[np.ndarray]], float | None]:
    """Format → logits of test; and PyTorch's best threshold on validation, None if the task needs none."""
    task, threshold = test.task, None
    with pytorch_forward(task, student) as forward:
        logits = {"pytorch": test.logits(forward, description="pytorch")}
        scoring.check_finite(logits["pytorch"], str(student.name_or_path))
        if task.needs_threshold:
            validation = EvaluationSet(task, validation_rows, test.tokenizer)
            threshold = task.best_threshold(validation_rows, validation.predictions(validation.logits(forward)))
    for which, batch_size in BATCHES.items():
        logits[which] = test.logits(onnx_model.onnx_forward(task, files[which]), batch_size, which)
    return logits, threshold


def compare_formats(
    test: EvaluationSet, logits: dict[str, list[np.ndarray]], predictions: dict[str, list], recipe: settings.Export
) -> dict[str, dict[str, float]]:
    """How far the outputs of each other format differ from PyTorch's. Raises UserError if those of ONNX differ more
    than the settings allow.
    """
    differences = {}
    for which in BATCHES:
        difference, share = compare_with_pytorch(test, logits, predictions, which)
        if which == "onnx":
            check_onnx_equals_pytorch(difference, share, recipe)
        differences[which] = {
            "largest_difference": float(f"{difference:.0e}"),
            "equal_predictions": round(share, DIGITS),
        }
    return differences


def compare_with_pytorch(
    test: EvaluationSet, logits: dict[str, list[np.ndarray]], predictions: dict[str, list], which: str
) -> tuple[float, float]:
    """The largest absolute difference of a logit from PyTorch's, and the share of rows with equal predictions."""
    pytorch, other = (np.concatenate(logits[model]) for model in ("pytorch", which))
    share = test.task.agreement(test.rows, predictions["pytorch"], predictions[which])
    return float(np.abs(pytorch - other).max()), share


def check_onnx_equals_pytorch(difference: float, share: float, recipe: settings.Export) -> None:
    """Raises UserError if the differences are larger than the settings allow."""
    if not difference <= recipe.largest_difference or share < recipe.equal_predictions:
        raise UserError(
            f"ONNX outputs differ from PyTorch's: a logit differs by {difference:.2g} (export.largest_difference:"
            f" {recipe.largest_difference:g}), {100 * share:.2f} % of the predictions on test are equal"
            f" (export.equal_predictions: {recipe.equal_predictions:g}): try another export.opset, or allow more where"
            " logits are large"
        )


if __name__ == "__main__":
    stage.run(main, "task")
