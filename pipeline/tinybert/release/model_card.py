"""The student's model card, in the format of the Hugging Face hub. A stage has measured every number in it."""

import hashlib
import io
from pathlib import Path
from typing import Any

import ruamel.yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import AutoConfig

from pipeline.tinybert.core.settings import STAGES_A_TASK_MAY_CHANGE, Numerics, Settings, Source
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.tasks import Task

MODELS = {
    "teacher": "teacher",
    "student": "**student**",
    "student_alone": "student fine-tuned without distillation (baseline)",
}
NOT_STATED = "not stated"
FORMATS = {"pytorch": "PyTorch", "onnx": "ONNX", "int8": "ONNX, int8"}


def of(
    task: Task,
    name: str,
    configuration: Settings,
    numerics: Numerics,
    facts: dict[str, dict],
    trainings: dict[str, dict],
    verdict: list[str],
    files: list[Path],
) -> ModelCard:
    """The card of task ``name``.

    facts: the contents of scores.json, export.json and benchmark.json, under these names.
    trainings: stage → rows, steps, learning rate and temperature of its training.
    verdict: the scores in words: gain, retention, doubts.
    files: the files that the card lists with their hashes.
    """
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
        "Use": usage(task),
        f"Scores on test ({task.metric})": score_table(task, facts["scores"], facts["export"]),
        "Size and latency": latency_table(facts["benchmark"]),
        "Training": training_table(trainings),
        "Sources and licences": source_table(task, name, configuration),
        "Parameters": parameters(name, configuration, numerics),
        "Files": table(["file", "SHA-256"], [[path.as_posix(), f"`{sha256(path)}`"] for path in files]),
    }
    text = "\n\n".join(f"## {title}\n\n{content}" for title, content in sections.items())
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n# {name}\n\n{description(name, verdict)}\n\n{text}\n")


def result(task: Task, source: Source, name: str, export: dict) -> EvalResult:
    """The released model's score, as the hub shows it. It names a dataset of the hub only if the rows came from it."""
    dataset, _, revision = source.location.removeprefix("hub:").partition("@")
    data: dict[str, Any] = {"dataset_type": name, "dataset_name": f"{name}, test split of this pipeline"}
    if source.location.startswith("hub:"):
        data = {"dataset_type": dataset, "dataset_name": dataset, "dataset_config": source.config}
        data |= {"dataset_revision": revision or None, "dataset_split": (source.splits or {}).get("test")}
    score = export["pytorch"][task.metric]
    return EvalResult(task_type=task.pipeline_tag, metric_type=task.metric, metric_value=score, **data)


def description(name: str, verdict: list[str]) -> str:
    """Shapes of student and teacher, how the student was distilled, and its scores in words."""
    student, teacher = (shape_in_words(Path("models", name, folder)) for folder in ("onnx", "teacher"))
    learned = "the student learned the teacher's embeddings, hidden states and attention scores first, then its logits"
    if teacher is None:
        teacher, learned = "predictions of another system", "the student learned its probabilities"
    else:
        teacher = f"a larger model ({teacher}) that was fine-tuned for the same task"
    findings = "\n".join(f"- {finding}" for finding in verdict)
    return (
        f"A small model ({student}), distilled from {teacher}. The method is"
        f" [TinyBERT](https://arxiv.org/abs/1909.10351)'s: {learned}.\n\nOn test, compared with"
        " the same student fine-tuned without distillation (in points, with the 95 % interval) and with the teacher:"
        f"\n\n{findings}"
    )


def shape_in_words(folder: Path) -> str | None:
    """The shape of the model in a folder; None if there is none."""
    if not (folder / "config.json").exists():
        return None
    shape = checkpoints.shape_of(AutoConfig.from_pretrained(folder, local_files_only=True))
    return f"{shape.layers} layers of {shape.hidden}, feed-forward {shape.feed_forward}"


def usage(task: Task) -> str:
    head = task.head.__name__
    code = [
        f"from transformers import {head}, AutoTokenizer",
        f'model = {head}.from_pretrained(".")  # this folder',
        'tokenizer = AutoTokenizer.from_pretrained(".")',
    ]
    contents = "`onnx/` contains the same model for onnxruntime, in float32 and quantized to int8."
    return "\n".join(["```python", *code, "```", "", contents])


def score_table(task: Task, scores: dict, export: dict) -> str:
    lines = [
        [title, f"{scores[which][task.metric]:.4f}", interval(scores[which]), *confidence(scores[which])]
        for which, title in MODELS.items()
        if which in scores
    ]
    lines += [
        ["gain of distillation (student minus baseline)", f"{scores['gain']['value']:+.4f}", interval(scores["gain"])]
    ]
    trimmed = f", vocabulary of {export['word_pieces']} word-pieces" if "whole_vocabulary" in export else ""
    lines += [
        [f"released student, {title}{trimmed}", f"{export[form][task.metric]:.4f}", ""]
        for form, title in FORMATS.items()
    ]
    columns = ["mean confidence", "overconfidence"] if task.has_probabilities else []
    scored = table(["model", task.metric, "95 % interval", *columns], lines)
    if export["threshold"] is None:
        return scored
    return (
        f"{scored}\n\nThe model gives no answer if its margin (the score of no answer minus that of the best answer) is"
        f" above {export['threshold']}, the best threshold on validation."
    )


def interval(values: dict[str, float]) -> str:
    return f"{values['low']:.4f} to {values['high']:.4f}"


def confidence(model: dict[str, float]) -> list[str]:
    """A model's mean confidence, and that minus its accuracy; empty for a kind without probabilities."""
    return [f"{model['confidence']:.4f}", f"{model['overconfidence']:+.4f}"] if "confidence" in model else []


def latency_table(benchmark: dict) -> str:
    lines = [
        [which, title, f"{benchmark[which]['parameters'] / 1e6:.1f} M", *(str(benchmark[which][form][key]) for key in
         ("megabytes", "p50", "p95", "times_faster"))]
        for which in ("teacher", "student")
        for form, title in FORMATS.items()
        if which in benchmark
    ]  # fmt: skip
    machine = ", ".join(f"{name} {value}" for name, value in benchmark["machine"].items())
    base = "the teacher" if "teacher" in benchmark else "the student"
    columns = ["model", "format", "parameters", "MB", "p50, ms", "p95, ms", f"times faster than {base} in PyTorch"]
    return (
        f"One text of {benchmark['word_pieces']['median']} word-pieces (the median of test) on one thread, without"
        f" tokenization ({machine}). The ONNX files compute only the part of the last layer that the head reads.\n\n"
        + table(columns, lines)
    )


def training_table(trainings: dict[str, dict]) -> str:
    """The rows and steps of each stage's training: params.yaml has only the least number of steps."""
    columns = ["rows", "steps", "learning_rate", "temperature"]
    lines = [[stage, *(str(training.get(column, "")) for column in columns)] for stage, training in trainings.items()]
    return table(["stage", "rows", "steps", "learning rate", "temperature"], lines)


def source_table(task: Task, name: str, configuration: Settings) -> str:
    recipe = configuration.quietly("package", name)
    _, unlabelled = configuration.unlabelled(name, task.reads_texts)
    student, teacher = (configuration.quietly(stage, name) for stage in ("general_student", "finetune_teacher"))
    sources = {
        "encoder": configuration.encoder.checkpoint,
        "teacher": teacher.checkpoint or teacher.predictions or ", ".join(teacher.encoders),
        "general_student": student.checkpoint if student.start == "checkpoint" else None,
        "data": configuration.task(name).source.location,
        "unlabelled": unlabelled.location if unlabelled else None,
        "word_vectors": configuration.word_vectors.location,
    }
    licenses = recipe.licenses.model_dump()
    lines = [[part, location, licenses[part] or NOT_STATED] for part, location in sources.items() if location]
    return table(["part", "source", "licence"], lines)


def parameters(name: str, configuration: Settings, numerics: Numerics) -> str:
    """The task's effective settings, as a block of params.yaml."""
    groups = ("encoder", "word_vectors", "prepare")
    values = {**numerics.model_dump(), **{group: getattr(configuration, group).model_dump() for group in groups}}
    values |= {stage: configuration.quietly(stage, name).model_dump() for stage in STAGES_A_TASK_MAY_CHANGE}
    values["task"] = configuration.task(name).model_dump(exclude=set(STAGES_A_TASK_MAY_CHANGE))
    text = io.StringIO()
    ruamel.yaml.YAML(typ="safe", pure=True).dump(values, text)
    return f"```yaml\n{text.getvalue()}```"


def table(columns: list[str], lines: list[list[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [columns, ["---"] * len(columns), *lines])


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
