"""Size, operations and latency of teacher and student: in PyTorch, as ONNX and as int8 ONNX, on this machine's CPU.

All are measured alternately in one run. The student's files are those of `export`. The teacher's ONNX files are
temporary; they show how much of the speed-up is due to ONNX and how much to the smaller model. If OpenVINO is installed
(tested: openvino 2026.4.1), it runs the float32 ONNX files too.
"""

import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from pipeline.tinybert import tasks
from pipeline.tinybert.core import settings, stage
from pipeline.tinybert.core.errors import UserError, message
from pipeline.tinybert.core.log import log
from pipeline.tinybert.core.output import output, write_csv, write_json
from pipeline.tinybert.data import rows
from pipeline.tinybert.models import checkpoints, inference
from pipeline.tinybert.models.formats import FILES
from pipeline.tinybert.models.known_logits import KnownLogits
from pipeline.tinybert.release import latency, onnx_model

LENGTHS = {"median": 50, "long": 95}  # percentiles of the lengths of test
COLUMNS = ["model", "batch_size", "word_pieces", "threads", "p50", "p95", "times_faster"]


def main(name: str) -> None:
    configuration = settings.load()
    recipe, export = configuration.of("benchmark", name), configuration.of("export", name)
    prepared = Path("data", name, "prepared")
    task = tasks.load(configuration, name)
    folders = {"teacher": Path("models", name, "teacher"), "student": Path("models", name, "onnx")}
    if KnownLogits.load(task, folders["teacher"]):
        log("the teacher is a file of predictions: the student is compared with its own PyTorch model")
        del folders["teacher"]
    loaded = {which: task.load_model(folder) for which, folder in folders.items()}
    tokenizers = {which: checkpoints.tokenizer(folder) for which, folder in folders.items()}
    test = list(rows.read(prepared / "test.jsonl"))
    pieces = length_percentiles(inference.encode(task, test, next(iter(tokenizers.values()))))

    formats = FILES | ({"openvino": FILES["onnx"]} if latency.openvino_is_installed() else {})
    with tempfile.TemporaryDirectory() as temporary:
        onnx_folders = {"teacher": Path(temporary), "student": folders["student"]}
        if "teacher" in loaded:
            write_teacher(onnx_folders["teacher"], loaded["teacher"], task, tokenizers["teacher"], export)
        files = {
            f"{which} {form}": (folders if form == "pytorch" else onnx_folders)[which] / formats[form]
            for which, form in product(loaded, formats)
        }
        files = {model: file for model, file in files.items() if model.startswith("student") or file.exists()}
        records = measure(loaded, files, tokenizers, pieces, recipe)
        megabytes = {model: round(file.stat().st_size / 1e6, 1) for model, file in files.items()}

    examples = {which: latency.random_inputs(tokenizers[which], 1, pieces["median"]) for which in loaded}
    report = make_report(loaded, examples, megabytes, records)
    with output(Path("metrics", name, "benchmark.json")) as out:
        write_json(out, {"machine": latency.machine(), "word_pieces": pieces, **report})
    with output(Path("metrics", name, "benchmark")) as out:
        write_csv(out / "situations.csv", COLUMNS, records)
        times = ((model, report[model.split()[0]][model.split()[1]]["p50"]) for model in files)
        write_csv(out / "latency.csv", ["model", "milliseconds"], times)


def write_teacher(folder: Path, teacher: PreTrainedModel, task: tasks.Task, tokenizer, export: settings.Export) -> None:
    """Write the teacher as ONNX and int8 ONNX. Not all families allow it: a failure is logged, and leaves no file.

    Raises UserError if a weight is NaN or infinite.
    """
    onnx_model.check_weights(teacher)
    onnx, int8 = (folder / FILES[form] for form in ("onnx", "int8"))
    rounding = {"per_channel": export.per_channel, "reduce_range": export.reduce_range}
    for path, write in {
        onnx: lambda: onnx_model.write(onnx, teacher, task, tokenizer, export.opset),
        int8: lambda: onnx_model.quantise(onnx, int8, teacher.config, tokenizer, **rounding),
    }.items():
        try:
            write()
            onnx_model.session(path)
        except Exception as error:  # the exporter and onnxruntime raise many kinds
            if message(error) and not isinstance(error, UserError):  # a full disk, little memory
                raise
            path.unlink(missing_ok=True)
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            log(
                f"teacher: its model family '{teacher.config.model_type}' cannot be written or run as {path.name}"
                f" ({reason}): the times of this format are left out"
            )
            return


def length_percentiles(encoded: dict[str, list]) -> dict[str, int]:
    """The lengths in word pieces at the percentiles ``LENGTHS``, by name."""
    lengths = [len(ids) for ids in encoded["input_ids"]]
    return {name: int(np.percentile(lengths, percentile, method="higher")) for name, percentile in LENGTHS.items()}


def measure(
    loaded: dict[str, PreTrainedModel],
    files: dict[str, Path],
    tokenizers: dict[str, Any],
    pieces: dict[str, int],
    recipe: settings.Benchmark,
) -> list[tuple]:
    """The rows of situations.csv (see ``COLUMNS``): milliseconds of each model by number of threads, batch size and
    length, and how many times faster than the teacher in PyTorch it is; without a teacher, than the student in PyTorch.
    """
    records = []
    for threads in sorted({1, latency.cores()}):
        runners = {model: runner(loaded, model, file, threads) for model, file in files.items()}
        for batch_size, length in product(sorted({1, *recipe.batch_sizes}), sorted(set(pieces.values()))):
            what = f"batch {batch_size}, {length} word pieces, {threads} threads"
            inputs = {model: latency.random_inputs(tokenizers[model.split()[0]], batch_size, length) for model in files}
            times = latency.measure(runners, inputs, recipe.seconds, f"latency, {what}")
            base = times[next(iter(files))]["p50"]
            records += [
                (model, batch_size, length, threads, *(round(of_model[at], 3) for at in ("p50", "p95")),
                 round(base / of_model["p50"], 2))
                for model, of_model in times.items()
            ]  # fmt: skip
    return records


def runner(loaded: dict[str, PreTrainedModel], model: str, file: Path, threads: int) -> latency.Run:
    """A function that runs a model ("student int8", for example) in the runtime of its format."""
    which, form = model.split()
    if form == "pytorch":
        return latency.pytorch_runner(loaded[which], threads)
    return (latency.openvino_runner if form == "openvino" else latency.onnx_runner)(file, threads)


def make_report(
    loaded: dict[str, PreTrainedModel],
    examples: dict[str, latency.Inputs],
    megabytes: dict[str, float],
    records: list[tuple],
) -> dict[str, dict]:
    """The parameters and operations of each model; for each of its formats the file size, and the times for one text of
    the examples' length on one thread.
    """
    report: dict = {
        which: {"parameters": model.num_parameters(), "operations": latency.operations(model, examples[which])}
        for which, model in loaded.items()
    }
    length = examples["student"]["input_ids"].size(1)
    for model, *at, p50, p95, faster in records:
        if at == [1, length, 1]:
            which, form = model.split()
            report[which][form] = {"megabytes": megabytes[model], "p50": p50, "p95": p95, "times_faster": faster}
            log(f"{model}: " + ", ".join(f"{key} {value}" for key, value in report[which][form].items()))
    return report


if __name__ == "__main__":
    stage.run(main, "task")
