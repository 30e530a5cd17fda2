"""The model card of a student, as the hub reads it: every number in it is one that a stage has measured."""

import hashlib
import io
from pathlib import Path

import ruamel.yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import AutoConfig

from pipeline.tinybert.core.settings import STAGES_A_TASK_MAY_CHANGE, Numerics, Settings, Source
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.tasks import Task

MODELS = {"teacher": "teacher", "student": "**student**", "student_alone": "student alone, on the labels"}
NOT_STATED = "not stated"
FORMATS = {"pytorch": "PyTorch", "onnx": "ONNX", "int8": "ONNX, int8"}


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
        eval_results=[result(task, configuration.task(name).source, name, facts["export"])],
    )
    sections = {
        "Use": used(task),
        f"Scores on test ({task.metric})": scores(task, facts["scores"], facts["export"]),
        "Size and speed": speed(facts["benchmark"]),
        "What it was made of": made_of(name, configuration),
        "Parameters": parameters(name, configuration, numerics),
        "Files": table(["file", "SHA-256"], [[path.as_posix(), f"`{sha256(path)}`"] for path in files]),
    }
    text = "\n\n".join(f"## {title}\n\n{content}" for title, content in sections.items())
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n# {name}\n\n{described(name, facts)}\n\n{text}\n")


def result(task: Task, source: Source, name: str, export: dict) -> EvalResult:
    """The score of what is shipped; on a split of the hub's only where it is one."""
    where, _, revision = source.location.removeprefix("hub:").partition("@")
    data = {"dataset_type": name, "dataset_name": f"{name}, test split of this pipeline"}
    if source.location.startswith("hub:"):
        data = {"dataset_type": where, "dataset_name": where, "dataset_config": source.config}
        data |= {"dataset_revision": revision or None, "dataset_split": (source.splits or {}).get("test")}
    score = export["pytorch"][task.metric]
    return EvalResult(task_type=task.pipeline_tag, metric_type=task.metric, metric_value=score, **data)


def described(name: str, facts: dict[str, dict]) -> str:
    shapes = {
        which: checkpoints.shape_of(AutoConfig.from_pretrained(Path("models", name, folder), local_files_only=True))
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


def used(task: Task) -> str:
    head = task.head.__name__
    code = [
        f"from transformers import {head}, AutoTokenizer",
        f'model = {head}.from_pretrained(".")  # this folder',
        'tokenizer = AutoTokenizer.from_pretrained(".")',
    ]
    return "\n".join(["```python", *code, "```", "", "`onnx/` has it for onnxruntime, whole and with weights in int8."])


def scores(task: Task, found: dict, export: dict) -> str:
    lines = [
        [title, f"{found[which][task.metric]:.4f}", f"{found[which]['low']:.4f} to {found[which]['high']:.4f}"]
        for which, title in MODELS.items()
    ]
    shipped = "shipped" if "whole_vocabulary" not in export else f"with {export['word_pieces']} word-pieces, as shipped"
    lines += [
        [f"student, {shipped}, {title}", f"{export[form][task.metric]:.4f}", ""] for form, title in FORMATS.items()
    ]
    said = table(["model", task.metric, "95 % interval"], lines)
    if export["threshold"] is None:
        return said
    return f"{said}\n\nNone is answered where its margin is above {export['threshold']}, the best on validation."


def speed(found: dict) -> str:
    lines = [
        [which, title, f"{found[which]['parameters'] / 1e6:.1f} M", *(str(found[which][form][key]) for key in
         ("megabytes", "p50", "p95", "times_faster"))]
        for which in ("teacher", "student")
        for form, title in FORMATS.items()
    ]  # fmt: skip
    machine = ", ".join(f"{name} {value}" for name, value in found["machine"].items())
    columns = ["model", "as", "parameters", "MB", "p50, ms", "p95, ms", "times faster than the teacher in PyTorch"]
    return (
        f"One text of {found['word_pieces']['median']} word-pieces, the median of test, on one thread, without the"
        f" tokenizer ({machine}). The ONNX files compute of the last layer only what the head reads:\n\n"
        + table(columns, lines)
    )


def made_of(name: str, configuration: Settings) -> str:
    task, recipe = configuration.task(name), configuration.quietly("package", name)
    student, teacher = (configuration.quietly(stage, name) for stage in ("general_student", "finetune_teacher"))
    used = {
        "encoder": configuration.encoder.checkpoint,
        "teacher": teacher.checkpoint,
        "general_student": student.checkpoint if student.start == "checkpoint" else None,
        "data": task.source.location,
        "unlabelled": task.unlabelled.location if task.unlabelled else None,
        "word_vectors": configuration.word_vectors.location,
    }
    licenses = recipe.licenses.model_dump()
    lines = [[what, place, licenses[what] or NOT_STATED] for what, place in used.items() if place]
    return table(["what", "from", "licence"], lines)


def parameters(name: str, configuration: Settings, numerics: Numerics) -> str:
    """What the task was made with, as it would stand in params.yaml."""
    groups = ("encoder", "word_vectors", "prepare")
    values = {**numerics.model_dump(), **{group: getattr(configuration, group).model_dump() for group in groups}}
    values |= {stage: configuration.quietly(stage, name).model_dump() for stage in STAGES_A_TASK_MAY_CHANGE}
    values["task"] = configuration.task(name).model_dump(exclude=set(STAGES_A_TASK_MAY_CHANGE))
    text = io.StringIO()
    ruamel.yaml.YAML(typ="safe", pure=True).dump(values, text)
    return f"```yaml\n{text.getvalue()}```"


def table(columns: list[str], lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [columns, ["---"] * len(columns), *lines])


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
