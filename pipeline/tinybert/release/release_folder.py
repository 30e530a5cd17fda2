"""The files of the release folder, under the names that clients look for."""

import json
import shutil
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import ruamel.yaml

from pipeline.tinybert.core.settings import Task as TaskSettings
from pipeline.tinybert.models.formats import FILES
from pipeline.tinybert.release import stand_alone
from pipeline.tinybert.tasks.task import Task

FIELDS = {"passage": "context"}  # a task's field → its name outside, which is that of other libraries
SERVED = ("text", "pair", "words", "question", "passage")  # the fields of all kinds that a model reads
LOOKED_AT, SHORT, LONG = 200, 40, 160  # rows of test; characters of one
HALF = 0.5  # the least probability of a label of `multi_label`
# What transformers.js loads by default: int8 on the CPU; float32 on a GPU, which has no int8 operators.
TRANSFORMERS_JS = {"dtype": "q8", "device_config": {"webgpu": {"dtype": "fp32"}}}


def serving_settings(task: Task, settings: TaskSettings, threshold: float | None) -> dict:
    """What `stand_alone` has to know about a task, as it stands in config.json."""
    fields = [FIELDS.get(field, field) for field in task.column_names(settings.source, labelled=False)]
    always = {"kind": settings.kind, "fields": fields, "max_length": task.max_length, **task.options.model_dump()}
    if settings.kind == "multi_label":
        threshold = HALF
    sometimes = {"labels": task.labels or None, "threshold": threshold, "scheme": settings.source.scheme}
    return always | {name: value for name, value in sometimes.items() if value is not None}


def to_served(row: dict) -> dict:
    """A row of the task in the form that `stand_alone` takes, with its texts as the user wrote them (``given``)."""
    given = {field: value for field, value in row.get("given", {}).items() if isinstance(value, str)}
    fields = {field: value for field, value in row.items() if field in SERVED}
    texts = {**fields, **{field: value for field, value in given.items() if field in (*fields, "text")}}
    return {FIELDS.get(field, field): value for field, value in texts.items()}


def example(test: Iterable[dict]) -> dict:
    """A row of test to show: the first that is neither very short nor long, or else the shortest of the first."""
    looked_at = [to_served(row) for row in islice(test, LOOKED_AT)]
    return next(
        (row for row in looked_at if SHORT <= len(str(row)) <= LONG), min(looked_at, key=lambda row: len(str(row)))
    )


def write_evaluation_results(out: Path, results: list[dict] | None) -> None:
    """Write what the hub reads as evaluation results, if the score is on a dataset of the hub."""
    if results:
        (out / ".eval_results").mkdir()
        with open(out / ".eval_results" / "results.yaml", "w", encoding="utf-8", newline="\n") as file:
            ruamel.yaml.YAML().dump(results, file)


def write(exported: Path, out: Path, serving: dict) -> None:
    """Fill the folder ``out`` with the files that `export` wrote to ``exported``. ``serving``: `serving_settings`.

    transformers.js finds the int8 model as ``dtype: "q8"`` and as ``dtype: "int8"``. The second file is small, because
    it reads its weights from the first.
    """
    from pipeline.tinybert.release import onnx_model  # slow to import, and `predict` needs only the settings

    (out / "onnx").mkdir()
    for file in sorted(exported.iterdir()):
        shutil.copyfile(file, out / ("onnx" if file.suffix == ".onnx" else "") / file.name)
    int8 = out / "onnx" / FILES["int8"]
    onnx_model.second_name(int8.rename(out / stand_alone.INT8), int8)
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    config |= {"transformers.js_config": TRANSFORMERS_JS, "tinybert": serving}
    # transformers.js cuts texts at model_max_length, transformers with `truncation=True`.
    tokenizer = json.loads((out / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokenizer["model_max_length"] = serving["max_length"]
    for name, content in (("config.json", config), ("tokenizer_config.json", tokenizer)):
        text = json.dumps(content, indent=2, sort_keys=True) + "\n"  # as the library writes it
        (out / name).write_text(text, encoding="utf-8", newline="\n")
    shutil.copyfile(stand_alone.__file__, out / "predict.py")
