"""The model card of a student, as the hub reads it: every number in it is one that a stage has measured."""

import hashlib
import io
from pathlib import Path

import ruamel.yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import AutoConfig

from pipeline.tinybert import models
from pipeline.tinybert.settings import STAGES_A_TASK_MAY_CHANGE, Numerics, Settings
from pipeline.tinybert.tasks import Task

MODELS = {"teacher": "teacher", "student": "**student**", "student_alone": "student alone, on the labels"}
FORMATS = {"pytorch": "PyTorch", "onnx": "ONNX", "int8": "ONNX, int8"}
CHUNK = 1 << 20


def of(
    task: Task, name: str, configuration: Settings, numerics: Numerics, facts: dict[str, dict], files: list[Path]
) -> ModelCard:
    """facts: scores, export and benchmark, as their stages report them. files: those to be told by their hashes."""
    recipe = configuration.quietly("package", name)
    data = ModelCardData(
        language=recipe.language,
        license=recipe.license,
        library_name="transformers",
        pipeline_tag=task.pipeline_tag,
        tags=["tinybert", "distillation", "onnx"],
        metrics=[task.metric],
        model_name=name,
        eval_results=[result(task, name, facts["scores"])],
    )
    sections = {
        "Use": used(task, name),
        f"Scores on test ({task.metric})": scores(task, facts["scores"], facts["export"]),
        "Size and speed": speed(facts["benchmark"]),
        "What it was made of": made_of(name, configuration),
        "Parameters": parameters(name, configuration, numerics),
        "Files": table(["file", "SHA-256"], [[str(path), f"`{sha256(path)}`"] for path in files]),
    }
    text = "\n\n".join(f"## {title}\n\n{content}" for title, content in sections.items())
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n# {name}\n\n{described(name, facts)}\n\n{text}\n")


def result(task: Task, name: str, found: dict) -> EvalResult:
    return EvalResult(
        task_type=task.pipeline_tag,
        dataset_type=name,
        dataset_name=name,
        dataset_split="test",
        metric_type=task.metric,
        metric_value=found["student"][task.metric],
    )


def described(name: str, facts: dict[str, dict]) -> str:
    shapes = {
        which: models.shape_of(AutoConfig.from_pretrained(Path("models", name, folder), local_files_only=True))
        for which, folder in {"teacher": "teacher", "student": "onnx"}.items()
    }
    teacher, student = (f"{shape.layers} layers of {shape.hidden}" for shape in shapes.values())
    retention = facts["scores"]["retention"]
    kept = "" if retention is None else f" It keeps {100 * retention:.1f} % of the teacher's score on test."
    return (
        f"A small model ({student}, feed-forward {shapes['student'].feed_forward}) that was distilled from a larger one"
        f" ({teacher}, feed-forward {shapes['teacher'].feed_forward}), fine-tuned for the same task, as"
        f" [TinyBERT](https://arxiv.org/abs/1909.10351) is: first its embeddings, hidden states and attention scores,"
        f" then its logits.{kept}"
    )


def used(task: Task, name: str) -> str:
    head = task.head.__name__
    code = [
        f"from transformers import {head}, AutoTokenizer",
        f'model = {head}.from_pretrained("{name}")  # this folder',
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")',
    ]
    return "\n".join(["```python", *code, "```", "", "`onnx/` has it for onnxruntime, whole and with weights in int8."])


def scores(task: Task, found: dict, export: dict) -> str:
    lines = [
        [title, f"{found[which][task.metric]:.4f}", f"{found[which]['low']:.4f} to {found[which]['high']:.4f}"]
        for which, title in MODELS.items()
    ]
    lines += [[f"student, {FORMATS[form]}", f"{export[form][task.metric]:.4f}", ""] for form in ("onnx", "int8")]
    return table(["model", task.metric, "95 % interval"], lines)


def speed(found: dict) -> str:
    lines = [
        [which, title, f"{found[which]['parameters'] / 1e6:.1f} M", *(str(found[which][form][key]) for key in
         ("megabytes", "p50", "p95", "times_faster"))]
        for which in ("teacher", "student")
        for form, title in FORMATS.items()
    ]  # fmt: skip
    machine = ", ".join(f"{name} {value}" for name, value in found["machine"].items())
    columns = ["model", "as", "parameters", "MB", "p50, ms", "p95, ms", "times faster"]
    return (
        f"One text of {found['word_pieces']['median']} word-pieces, the median of test, on one thread ({machine}):\n\n"
        + table(columns, lines)
    )


def made_of(name: str, configuration: Settings) -> str:
    task, recipe = configuration.task(name), configuration.quietly("package", name)
    lines = [
        ["encoder", configuration.encoder.checkpoint],
        ["data", task.source.location],
        ["unlabelled text", task.unlabelled.location if task.unlabelled else "none"],
        ["word vectors", configuration.word_vectors.location],
    ]
    return table(["what", "from", "licence"], [[*line, recipe.licenses.get(line[0], "")] for line in lines])


def parameters(name: str, configuration: Settings, numerics: Numerics) -> str:
    """What the task was made with, as it would stand in params.yaml."""
    values = {**numerics.model_dump(), "prepare": configuration.prepare.model_dump()}
    values |= {stage: configuration.quietly(stage, name).model_dump() for stage in STAGES_A_TASK_MAY_CHANGE}
    text = io.StringIO()
    ruamel.yaml.YAML(typ="safe", pure=True).dump(values, text)
    return f"```yaml\n{text.getvalue()}```"


def table(columns: list[str], lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [columns, ["---"] * len(columns), *lines])


def sha256(path: Path) -> str:
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            found.update(chunk)
    return found.hexdigest()
