"""Size, operations and latency of teacher and student: in PyTorch, as ONNX and as int8 ONNX, on this machine's CPU.

All are measured in one run, in turn. The student's files are those of `export`; the teacher's are made here, and thrown
away: they tell what the student gains beside what ONNX gains.
"""

import json
import os
import tempfile
from itertools import product
from pathlib import Path

import numpy as np
from torch import nn

from pipeline.tinybert import latency, models, onnx_model, rows, settings, stage, tasks, training

MODELS, FORMATS = ("teacher", "student"), ("pytorch", "onnx", "int8")
FILES = {"pytorch": "model.safetensors", "onnx": "model.onnx", "int8": "model_int8.onnx"}
LENGTHS = {"median": 50, "long": 95}  # percentiles of the lengths of test
COLUMNS = ["model", "batch_size", "word_pieces", "threads", "p50", "p95", "times_faster"]


def main(name: str) -> None:
    configuration = settings.load()
    recipe, export = (configuration.of(group, name) for group in ("benchmark", "export"))
    prepared = Path("data", name, "prepared")
    task = tasks.load(prepared / "task.json", configuration.task(name), name)
    folders = {"teacher": Path("models", name, "teacher"), "student": Path("models", name, "onnx")}
    loaded = {which: task.load_model(folder) for which, folder in folders.items()}
    tokenizer = models.tokenizer(folders["student"])  # whose vocabulary may be a part of the teacher's
    pieces = lengths_of(training.columns(task, list(rows.read(prepared / "test.jsonl")), tokenizer))

    with tempfile.TemporaryDirectory() as made:
        onnx = {"teacher": Path(made), "student": folders["student"]}
        whole, int8 = (onnx["teacher"] / FILES[form] for form in FORMATS[1:])
        onnx_model.write(whole, loaded["teacher"], task, tokenizer, export.opset)
        onnx_model.quantise(whole, int8, export.per_channel, export.reduce_range)
        files = {
            f"{which} {form}": (folders if form == "pytorch" else onnx)[which] / FILES[form]
            for which, form in product(MODELS, FORMATS)
        }
        records = measured(loaded, files, tokenizer, pieces, recipe)
        megabytes = {model: round(file.stat().st_size / 1e6, 1) for model, file in files.items()}

    report = {"machine": latency.machine(), "word_pieces": pieces}
    example = latency.random_inputs(tokenizer, 1, pieces["median"])
    for which, model in loaded.items():
        report[which] = {"parameters": model.num_parameters(), "operations": latency.operations(model, example)}
        report[which] |= {form: {"megabytes": megabytes[f"{which} {form}"]} for form in FORMATS}
    for model, *at, p50, p95, faster in records:
        if at == [1, pieces["median"], 1]:
            which, form = model.split()
            report[which][form] |= {"p50": p50, "p95": p95, "times_faster": faster}
    for which, form in product(MODELS, FORMATS):
        stage.say(f"{which} {form}: " + ", ".join(f"{key} {value}" for key, value in report[which][form].items()))

    with stage.output(Path("metrics", name, "benchmark.json")) as out:
        rows.write_json(out, report)
    with stage.output(Path("metrics", name, "benchmark")) as out:
        rows.write_csv(out / "latency.csv", COLUMNS, records)
        rows.write_csv(out / "score.csv", ["model", "milliseconds", "score"], scored(name, task.metric, report))


def lengths_of(encoded: dict[str, list]) -> dict[str, int]:
    lengths = [len(ids) for ids in encoded["input_ids"]]
    return {name: int(np.percentile(lengths, percentile, method="higher")) for name, percentile in LENGTHS.items()}


def measured(
    loaded: dict[str, nn.Module], files: dict[str, Path], tokenizer, pieces: dict[str, int], recipe: settings.Benchmark
) -> list[tuple]:
    """Milliseconds of each model in each situation, and how many times faster than the teacher in PyTorch it is."""
    records = []
    for threads in sorted({1, os.cpu_count() or 1}):
        answers = {
            model: latency.of_pytorch(loaded[model.split()[0]], threads)
            if model.endswith("pytorch")
            else latency.of_onnx(file, threads)
            for model, file in files.items()
        }
        for batch_size, length in product(recipe.batch_sizes, sorted(set(pieces.values()))):
            what = f"batch {batch_size}, {length} word-pieces, {threads} threads"
            times = latency.measured(
                answers, latency.random_inputs(tokenizer, batch_size, length), recipe.runs, f"latency, {what}"
            )
            base = times["teacher pytorch"]["p50"]
            records += [
                (model, batch_size, length, threads, round(found["p50"], 3), round(found["p95"], 3),
                 round(base / found["p50"], 2))
                for model, found in times.items()
            ]  # fmt: skip
    return records


def scored(name: str, metric: str, report: dict) -> list[tuple[str, float, float]]:
    """Of each model that has a score on test, the milliseconds that it takes to answer, and the score."""
    scores, export = (
        json.loads(Path("metrics", name, f"{file}.json").read_text(encoding="utf-8")) for file in ("scores", "export")
    )
    found = {("teacher", "pytorch"): scores["teacher"], **{("student", form): export[form] for form in FORMATS}}
    return [(" ".join(key), report[key[0]][key[1]]["p50"], score[metric]) for key, score in found.items()]


if __name__ == "__main__":
    stage.run(main, "task")
