"""The student's model card, in the format of the Hugging Face hub. A stage has measured every number in it."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import ruamel.yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml
from transformers import AutoConfig

from pipeline.tinybert.core.markdown import table
from pipeline.tinybert.core.settings import STAGES_A_TASK_MAY_CHANGE, Numerics, Settings, Source
from pipeline.tinybert.data import sources
from pipeline.tinybert.models import checkpoints, ensembles
from pipeline.tinybert.tasks import Task

MODELS = {
    "teacher": "teacher",
    "student": "**student**",
    "student_alone": "student fine-tuned without distillation (baseline)",
}
NOT_STATED = "not stated"
HUB = "hub:"
# Our metrics, as the hub knows them: type, name, arguments.
HUB_METRICS: dict[str, tuple[str, str, dict | None]] = {
    "macro_f1": ("f1", "Macro F1", {"average": "macro"}),
    "micro_f1": ("f1", "Micro F1", {"average": "micro"}),
    "mcc": ("matthews_correlation", "Matthews correlation", None),
    "pearson": ("pearsonr", "Pearson correlation", None),
    "spearman": ("spearmanr", "Spearman correlation", None),
    "pearson_spearman": ("pearsonr", "Mean of Pearson and Spearman correlation", None),
}
STRICT_F1 = "Strict F1: an entity counts as correct only if its type, its first word and its last word are right."
# What a score means, by the hub's name of the kind.
MEANINGS = {
    "token-classification": STRICT_F1,
    "question-answering": "Exact match and F1 over words, as in SQuAD's script: the best of the reference answers.",
}
PURPOSES = {
    "text_classification": "to give {what} one of the labels {labels}",
    "regression": "to give {what} a number",
    "multi_label": "to give {what} any number of the labels {labels}",
    "named_entities": "to find entities in a sentence: {labels}",
    "question_answering": "to find the answer to a question in a passage",
}
MOST_LABELS = 20  # that a sentence lists
# general_student: the settings that a start reads.
READ_BY_START = {
    "checkpoint": ("start", "shape", "checkpoint"),
    "layers": ("start", "shape", "layers"),
    "distillation": ("start", "shape", "distillation"),
}
# A loss of the intermediate stage → what a student learns by it.
STATES = {
    "embeddings": "embeddings",
    "hidden": "hidden states",
    "attention": "attention scores",
    "relations": "self-attention relations",
}
FORMATS = {"pytorch": "PyTorch", "onnx": "ONNX", "int8": "ONNX, int8"}


def of(
    task: Task,
    name: str,
    configuration: Settings,
    numerics: Numerics,
    facts: dict[str, dict],
    trainings: dict[str, dict],
    verdict: list[str],
    example: tuple[dict, dict],
    files: dict[str, Path],
) -> ModelCard:
    """The card of task ``name``.

    facts: the contents of scores.json, export.json and benchmark.json, under these names.
    trainings: stage → rows, steps, batch size, … of its training; of `distill_intermediate`, also the ``losses``.
    verdict: the scores in words: gain, retention, doubts.
    example: a row, and the released int8 model's answer.
    files: the files that the card lists with their hashes, by the names that it gives them.
    """
    recipe, source = configuration.quietly("package", name), configuration.task(name).source
    metric = HUB_METRICS.get(task.metric, (task.metric, None, None))[0]
    data = ModelCardData(
        language=recipe.language,
        license=recipe.license,
        library_name="transformers",
        pipeline_tag=task.pipeline_tag,
        tags=["tinybert", "distillation", "onnx", "transformers.js"],
        metrics=[metric],
        model_name=name,
        base_model=recipe.base_model or base_models(configuration, name) or None,
        datasets=recipe.datasets or data_sets(task, configuration, name) or None,
        eval_results=[result(task, source, name, facts["export"])],
    )
    sections = {
        "Use": usage(task, configuration.task(name).kind, source, *example),
        "Intended use and limits": limits(task, name, configuration, trainings, facts["export"]),
        f"Scores on test ({task.metric})": score_table(task, facts["scores"], facts["export"]),
        "Size and latency": latency_table(facts["benchmark"]),
        "Training": training_table(trainings),
        "Sources and licences": source_table(task, name, configuration),
        "Parameters": parameters(task, name, configuration, numerics, trainings),
        "Files": table(["file", "SHA-256"], [[title, f"`{sha256(path)}`"] for title, path in files.items()]),
    }
    text = "\n\n".join(f"## {title}\n\n{content}" for title, content in sections.items())
    about = description(name, configuration, trainings["distill_intermediate"]["losses"], verdict)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n# {name}\n\n{about}\n\n{text}\n")


def result(task: Task, source: Source, name: str, export: dict) -> EvalResult:
    """The released model's score, as the hub shows it. It names a dataset of the hub only if the rows came from it."""
    data: dict[str, Any] = {"dataset_type": name, "dataset_name": f"{name}, test split of this pipeline"}
    if source.location.startswith(HUB):
        dataset, revision = hub_name(source.location)
        data = {"dataset_type": dataset, "dataset_name": dataset, "dataset_config": source.config}
        data |= {"dataset_revision": revision, "dataset_split": (source.splits or {}).get("test")}
    metric, title, arguments = HUB_METRICS.get(task.metric, (task.metric, None, None))
    if task.pipeline_tag == "token-classification":
        title = f"{task.metric}, strict"
    return EvalResult(
        task_type=task.pipeline_tag,
        metric_type=metric,
        metric_name=title,
        metric_args=arguments,
        metric_value=export["pytorch"][task.metric],
        **data,
    )


def evaluation_results(task: Task, source: Source, export: dict) -> list[dict] | None:
    """The content of `.eval_results/*.yaml`, which the hub reads for a dataset of its own; None for other sources."""
    if not source.location.startswith(HUB):
        return None
    dataset, revision = hub_name(source.location)
    entry = EvalResultEntry(
        dataset_id=dataset,
        task_id=source.config or "default",
        value=export["pytorch"][task.metric],
        dataset_revision=revision,
        notes=f"{task.metric} on {(source.splits or {}).get('test', 'the test split of this pipeline')}",
    )
    return eval_result_entries_to_yaml([entry])


def hub_name(location: str) -> tuple[str, str | None]:
    """OWNER/NAME and the revision of a location of the hub."""
    name, _, revision = location.removeprefix(HUB).partition("@")
    return name, revision or None


def on_hub(*locations: str | None) -> list[str]:
    """The names of the locations that are on the hub, each once."""
    return list(dict.fromkeys(hub_name(location)[0] for location in locations if location and location.startswith(HUB)))


def base_models(configuration: Settings, name: str) -> list[str]:
    """The models of the hub that the student's weights come from."""
    student = configuration.quietly("general_student", name)
    return on_hub(student.checkpoint if student.start == "checkpoint" else configuration.encoder.checkpoint)


def data_sets(task: Task, configuration: Settings, name: str) -> list[str]:
    _, unlabelled = sources.unlabelled(configuration, name, task.reads_texts)
    return on_hub(configuration.task(name).source.location, unlabelled.location if unlabelled else None)


def description(name: str, configuration: Settings, losses: set[str], verdict: list[str]) -> str:
    """Shapes of student and teachers, how the student was distilled, and its scores in words.

    losses: those by which the student learned the first teacher's states.
    """
    student = shape_in_words(Path("models", name, "onnx"))
    shapes = [shape_in_words(folder) for folder in ensembles.folders(Path("models", name, "teacher"))]
    teacher = "predictions of another system"
    if shapes[0] is not None:
        number, models, were = ("a", "model", "was") if len(shapes) == 1 else (len(shapes), "models", "were")
        listed = "; ".join(dict.fromkeys(filter(None, shapes)))
        teacher = f"{number} larger {models} ({listed}) that {were} fine-tuned for the same task"
    by_labels = configuration.quietly("distill_prediction", name).targets == "labels"
    learned = f"the student learned {lesson(losses, shapes, by_labels)}"
    findings = "\n".join(f"- {finding}" for finding in verdict)
    return (
        f"A small model ({student}), distilled from {teacher}. The method is"
        f" [TinyBERT](https://arxiv.org/abs/1909.10351)'s: {learned}.\n\nOn test, compared with"
        " the same student fine-tuned without distillation (in points, with the 95 % interval) and with the teacher:"
        f"\n\n{findings}"
    )


def lesson(losses: set[str], teachers: list[str | None], by_labels: bool) -> str:
    """What the student learned of its ``teachers``: states if there are ``losses`` of them, then logits or labels."""
    *others, last = [words for loss, words in STATES.items() if loss in losses] or [""]
    states = f"{', '.join(others)} and {last}" if others else last
    whose = "the teacher's" if len(teachers) == 1 else "the first teacher's"
    if by_labels:
        logits = "the labels of the training rows"
    elif len(teachers) > 1:
        logits = "the mean of all teachers' logits"
    elif teachers == [None]:
        logits = "these predictions"
    else:
        logits = "its logits" if states else "the teacher's logits"
    return f"{whose} {states} first, then {logits}" if states else logits


def shape_in_words(folder: Path) -> str | None:
    """The shape of the model in a folder; None if there is none."""
    if not (folder / "config.json").exists():
        return None
    shape = checkpoints.shape_of(AutoConfig.from_pretrained(folder, local_files_only=True))
    return f"{shape.layers} layers of {shape.hidden}, feed-forward {shape.feed_forward}"


def usage(task: Task, kind: str, source: Source, row: dict, answer: dict) -> str:
    """How to run the model on ``row`` in each client, and the ``answer`` of the int8 file."""
    parts = [
        "With transformers:",
        block("python", with_transformers(task, row)),
        "With onnxruntime, tokenizers and numpy only (`python predict.py --help` for the command line):",
        block("python", stand_alone(row, answer)),
        "`onnx/` contains the model for onnxruntime: `model.onnx` in float32 and `model_quantized.onnx` in int8."
        " `model_int8.onnx` is the int8 model under another name, and needs `model_quantized.onnx` beside it.",
    ]
    if kind != "regression" and source.pair is None:  # its pipelines take no pairs and give no numbers
        parts += [
            "In a browser or Node, with transformers.js (int8 by default):",
            block("js", in_javascript(task, row)),
            '`dtype: "int8"` loads `onnx/model_int8.onnx`. From the hub with an empty cache, it also needs'
            ' `session_options: {externalData: [{path: "model_quantized.onnx", data: "onnx/model_quantized.onnx"}]}`.',
        ]
    return "\n\n".join(parts)


def with_transformers(task: Task, row: dict) -> list[str]:
    """A pipeline of transformers that reads ``row``. Version 5 has none for questions: the model and its tokenizer."""
    if task.pipeline_tag == "question-answering":
        return [
            f"from transformers import {task.head.__name__}, AutoTokenizer",
            f'model = {task.head.__name__}.from_pretrained(".")  # this folder; transformers 5 has no pipeline for it',
            'tokenizer = AutoTokenizer.from_pretrained(".")',
        ]
    if task.pipeline_tag == "token-classification":
        options, call = ', aggregation_strategy="first"', ""
    else:
        options, call = ", top_k=None", ", truncation=True"
    texts = in_one_text(row)
    given: Any = {"text": texts[0], "text_pair": texts[1]} if len(texts) == 2 else texts[0]
    return [
        "from transformers import pipeline",
        f'model = pipeline("{task.pipeline_tag}", "."{options})  # this folder',
        f"model({as_json(given)}{call})",
    ]


def stand_alone(row: dict, answer: dict) -> list[str]:
    """`predict.py` of the release folder, with the answer."""
    return [
        "from predict import Model  # predict.py of this folder",
        'model = Model(".")  # int8; Model(".", "onnx/model.onnx"): float32',
        f"model.predict([{as_json(row)}])",
        f"# {as_json([answer])}",
    ]


def in_javascript(task: Task, row: dict) -> list[str]:
    return [
        'import { pipeline } from "@huggingface/transformers";',
        f'const model = await pipeline("{task.pipeline_tag}", "OWNER/NAME");  // this folder on the hub',
        f"await model({', '.join(map(as_json, in_one_text(row)))});",
    ]


def in_one_text(row: dict) -> list[str]:
    """The row's texts; words in one text with spaces."""
    return [" ".join(value) if isinstance(value, list) else value for value in row.values()]


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def block(language: str, lines: list[str]) -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def limits(task: Task, name: str, configuration: Settings, trainings: dict[str, dict], export: dict) -> str:
    """What the model is for, and where its scores say nothing."""
    entry, language = configuration.task(name), configuration.quietly("package", name).language
    labels = task.labels
    if entry.kind == "named_entities":
        labels = [label.removeprefix("B-") for label in labels if label.startswith("B-")]
    more = f" and {len(labels) - MOST_LABELS} more" if len(labels) > MOST_LABELS else ""
    what = "a pair of texts" if entry.source.pair else "a text"
    purpose = PURPOSES[entry.kind].format(what=what, labels=", ".join(labels[:MOST_LABELS]) + more)
    rows = trainings["finetune_student"].get("rows", "unknown")
    points = [
        f"Intended use: {purpose}, in the language `{language}`, on texts like the training data ({rows} rows of"
        f" `{entry.source.location}`).",
        "The scores below hold for such texts. Test the model on your own texts before you rely on it, and do not let"
        " it decide alone about people.",
        "The student learned the teacher's answers, mistakes and biases included.",
    ]
    if entry.kind == "question_answering":
        points.append(f"Questions are cut at {task.max_length // 2} word pieces; passages are read whole, in windows.")
    else:
        points.append(f"Text after {task.max_length} word pieces is not read (transformers: `truncation=True`).")
    if export["threshold"] is not None:
        points.append(f"Questions without an answer: the threshold is {export['threshold']} (see Scores).")
    return "\n".join(f"- {point}" for point in points)


def score_table(task: Task, scores: dict, export: dict) -> str:
    lines = [
        [title, f"{scores[which][task.metric]:.4f}", interval(scores[which]), *confidence(scores[which])]
        for which, title in MODELS.items()
        if which in scores
    ]
    lines += [
        ["gain of distillation (student minus baseline)", f"{scores['gain']['value']:+.4f}", interval(scores["gain"])]
    ]
    trimmed = f", vocabulary of {export['word_pieces']} word pieces" if "whole_vocabulary" in export else ""
    lines += [
        [f"released student, {title}{trimmed}", f"{export[form][task.metric]:.4f}", ""]
        for form, title in FORMATS.items()
    ]
    columns = ["mean confidence", "overconfidence"] if task.has_probabilities else []
    scored = table(["model", task.metric, "95 % interval", *columns], lines)
    if task.pipeline_tag in MEANINGS:
        scored += f"\n\n{MEANINGS[task.pipeline_tag]}"
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
        for form, title in {**FORMATS, "openvino": "ONNX, in OpenVINO"}.items()
        if form in benchmark.get(which, {})  # OpenVINO is optional
    ]  # fmt: skip
    machine = ", ".join(f"{name} {value}" for name, value in benchmark["machine"].items())
    base = "the teacher" if "teacher" in benchmark else "the student"
    columns = ["model", "format", "parameters", "MB", "p50, ms", "p95, ms", f"times faster than {base} in PyTorch"]
    return (
        f"One text of {benchmark['word_pieces']['median']} word pieces (the median of test) on one thread, without"
        f" tokenization ({machine}). The ONNX files compute only the part of the last layer that the head reads.\n\n"
        + table(columns, lines)
    )


def training_table(trainings: dict[str, dict]) -> str:
    """What each stage's training was: for few rows, batches, epochs and variants differ from params.yaml."""
    columns = ["rows", "variants", "batch_size", "epochs", "steps", "learning_rate", "temperature"]
    lines = [[stage, *(str(training.get(column, "")) for column in columns)] for stage, training in trainings.items()]
    return table(["stage", *(column.replace("_", " ") for column in columns)], lines)


def source_table(task: Task, name: str, configuration: Settings) -> str:
    recipe = configuration.quietly("package", name)
    _, unlabelled = sources.unlabelled(configuration, name, task.reads_texts)
    student, teacher = (configuration.quietly(stage, name) for stage in ("general_student", "finetune_teacher"))
    used = {
        "encoder": configuration.encoder.checkpoint,
        "teacher": teacher.predictions or ", ".join(teacher.checkpoints or teacher.encoders),
        "general_student": student.checkpoint if student.start == "checkpoint" else None,
        "data": configuration.task(name).source.location,
        "unlabelled": unlabelled.location if unlabelled else None,
        "word_vectors": configuration.word_vectors.location,
    }
    licenses = recipe.licenses.model_dump()
    lines = [[part, location, licenses[part] or NOT_STATED] for part, location in used.items() if location]
    return table(["part", "source", "licence"], lines)


def parameters(task: Task, name: str, configuration: Settings, numerics: Numerics, trainings: dict[str, dict]) -> str:
    """The task's effective settings, as a block of params.yaml: those that the stages read, without blank ones."""
    groups = ("encoder", "word_vectors", "prepare")
    values = {**numerics.model_dump(), **{group: getattr(configuration, group).model_dump() for group in groups}}
    values |= {stage: configuration.quietly(stage, name).model_dump() for stage in STAGES_A_TASK_MAY_CHANGE}
    values["task"] = configuration.task(name).model_dump(exclude=set(STAGES_A_TASK_MAY_CHANGE))
    student, teacher = values["general_student"], values["finetune_teacher"]
    values["general_student"] = {key: student[key] for key in READ_BY_START[student["start"]]}
    for own in ("checkpoint", "predictions"):
        if teacher[own]:  # nothing is fine-tuned
            values["finetune_teacher"] = {own: teacher[own]}
    if teacher["predictions"]:  # without states to learn
        del values["distill_intermediate"]
    if "encoder" not in trainings:  # the encoder has a masked language model of its own
        key, general = sources.unlabelled(configuration, name, task.reads_texts)
        read = ("train", "text") if general and key.startswith("encoder.") else ("train",)
        head = values["encoder"]["masked_language_model"]
        values["encoder"]["masked_language_model"] = {setting: head[setting] for setting in read}
    text = io.StringIO()
    ruamel.yaml.YAML(typ="safe", pure=True).dump(_without_blanks(values), text)
    return f"<details>\n<summary>All settings</summary>\n\n```yaml\n{text.getvalue()}```\n\n</details>"


def _without_blanks(values: dict) -> dict:
    stated = {key: _without_blanks(value) if isinstance(value, dict) else value for key, value in values.items()}
    return {key: value for key, value in stated.items() if value not in (None, {})}


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
