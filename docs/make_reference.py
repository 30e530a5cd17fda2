"""Write docs/reference.md from the schema of the settings: ``python -m docs.make_reference``."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import ruamel.yaml

from pipeline.tinybert.core import settings
from pipeline.tinybert.core.schema import Group, in_words
from pipeline.tinybert.guessing import entry
from pipeline.tinybert.preparation.records import SOURCE_SETTINGS, TABLE_SETTINGS
from pipeline.tinybert.tasks import KINDS, Task


def names(values: Iterable[str]) -> str:
    return ", ".join(f"`{value}`" for value in values)


REFERENCE = Path(__file__).with_name("reference.md")
START = """# Reference: every setting

`python -m docs.make_reference` makes this page from the code. All settings are in [params.yaml](../params.yaml): three
for everything, one group for each stage, and one entry under `tasks` for each task. A key is blank if nothing follows
its colon. DVC needs every key; only those below `options`, `source`, `unlabelled` and `text`, and in
a task those of a stage, may be left out.

A location is one of these:

- a path below `data/raw` ([data/raw/README.md](../data/raw/README.md))
- `package:NAME@VERSION/PATH`: a file or folder of an installed Python package. Without the version, DVC would not
  see when another one is installed
- `hub:OWNER/NAME@COMMIT`: a repository of the Hugging Face hub; the commit has 40 hexadecimal digits
"""
TEXT_NOTE = "see [Unlabelled text](#unlabelled-text)"
TASK_NOTES = {
    "kind": f"kind of task: one of {names(KINDS)}",
    "metric": "score that selects models and is reported: see [Metrics](#metrics)",
    "options": "settings of the kind: see [Options](#options); blank: their defaults",
    "source": "where the rows come from: see [Rows](#rows)",
    "unlabelled": f"further text, which the teacher labels: {TEXT_NOTE}; blank: general text for single texts and"
    " entities (`augment.general_texts`), new pairs for pairs (`augment.new_pairs`), nothing for questions",
}
EXAMPLES: dict[str, dict[str, Any]] = {
    "text_classification": {
        "source": {"location": "data/raw/films/reviews.csv", "text": "review", "label": "sentiment"},
        "metric": "accuracy",
        "max_length": 64,
    },
    "regression": {
        "source": {
            "location": "data/raw/similarity",
            "splits": {"train": "train.csv", "validation": "validation.csv"},
            "text": "sentence1",
            "pair": "sentence2",
            "label": "score",
        },
        "metric": "pearson_spearman",
        "max_length": 128,
    },
    "multi_label": {
        "source": {"location": "data/raw/genres/plots.csv", "text": "plot", "label": "genres", "separator": "|"},
        "unlabelled": {"location": "data/raw/genres/more.jsonl", "text": "body", "sentences": True, "limit": 50000},
        "metric": "micro_f1",
        "max_length": 256,
    },
    "named_entities": {
        "source": {"location": "data/raw/names/train.conll", "words": 1, "tags": 4, "scheme": "IOB2"},
        "metric": "f1",
        "max_length": 64,
    },
    "question_answering": {
        "options": {"unanswerable": True},
        "source": {
            "location": "data/raw/questions/train.json",
            "question": "question",
            "passage": "context",
            "answers": "answers",
        },
        "metric": "f1",
        "max_length": 384,
    },
}  # what `new_task` writes for such files


def text() -> str:
    """The text of docs/reference.md."""
    params = ruamel.yaml.YAML(typ="safe", pure=True).load(
        (REFERENCE.parents[1] / settings.PARAMS).read_text(encoding="utf-8")
    )
    parts = [START, "## For everything\n", group_table(settings.Settings, params, without_groups=True)]
    for name in settings.Settings.model_fields:
        group = group_of(settings.Settings, name)
        if group not in (None, settings.Task):
            parts += [f"## {name}\n", group_table(group, params[name])]
    parts += ["## A task\n", task_table(), "### Options\n", options_table(), "### Rows\n", source_table()]
    parts += ["### Unlabelled text\n", UNLABELLED, unlabelled_table(), "### Metrics\n", METRICS, metrics_table()]
    parts += ["## A complete entry of each kind\n", entries()]
    return "\n".join(parts)


UNLABELLED = """`unlabelled` of a task, and `text` of the groups `encoder` and `general_student`, have the keys
`location` to `passage` of
 [Rows](#rows), and:
"""
METRICS = "`new_task` writes the first metric of the kind, or `macro_f1` if a class is rare.\n"


def group_of(model: type[Group], name: str) -> type[Group] | None:
    """The group of settings that a field holds."""
    annotation = model.model_fields[name].annotation
    types = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
    return next((kind for kind in types if issubclass(kind, Group)), None)


def group_table(model: type[Group], values: dict, without_groups: bool = False) -> str:
    return table(["key", "meaning", "type", "in params.yaml"], group_rows(model, values, without_groups))


def group_rows(model: type[Group], values: dict, without_groups: bool, prefix: str = "") -> list[list[str]]:
    rows, schema = [], model.model_json_schema()
    for name, field in model.model_fields.items():
        inner = group_of(model, name)
        if inner is settings.Text:
            rows.append([f"`{prefix}{name}`", f"{field.description}: {TEXT_NOTE}", "a group of settings", ""])
        elif inner and not without_groups:
            rows += group_rows(inner, values[name], without_groups, f"{prefix}{name}.")
        elif field.description and not inner:
            rows.append([f"`{prefix}{name}`", field.description, in_words(schema, [name]), shown(values[name])])
    return rows


def task_table() -> str:
    schema, rows = settings.Task.model_json_schema(), []
    for name, field in settings.Task.model_fields.items():
        words = in_words(schema, [name])
        if group_of(settings.Task, name):
            words = "a group of settings" + " or blank" * (type(None) in get_args(field.annotation))
        meaning = TASK_NOTES.get(name, field.description or "")
        rows.append([f"`{name}`", meaning.replace("the group of this name", f"[{name}](#{name})"), words])
    return table(["key", "meaning", "type"], rows)


def options_table() -> str:
    rows = []
    for kind, task in KINDS.items():
        schema = task.Options.model_json_schema()
        for name, field in task.Options.model_fields.items():
            rows.append([f"`{name}`", f"`{kind}`", field.description, in_words(schema, [name]), shown(field.default)])
    return table(["key", "kinds", "meaning", "type", "if left out"], rows)


def source_table() -> str:
    return table(["key", "kinds", "meaning", "type", "if left out", "example"], table_rows(settings.Source))


def unlabelled_table() -> str:
    known = set(settings.Table.model_fields)
    rows = [row for row in table_rows(settings.Text) if row[0].strip("`") not in known]
    return table(["key", "meaning", "type", "if left out"], [[row[0], *row[2:5]] for row in rows])


def table_rows(model: type[settings.Table]) -> list[list[str]]:
    schema, rows = model.model_json_schema(), []
    for name, field in model.model_fields.items():
        by_kind = {kind: task.columns.get(name) for kind, task in KINDS.items() if reads(task, name)}
        kinds = "all" if len(by_kind) == len(KINDS) else names(by_kind)
        default = next((column for column in by_kind.values() if column), None) or field.default
        left_out = "" if field.is_required() else shown(default) or "blank"
        example = shown((field.examples or [""])[0])
        rows.append([f"`{name}`", kinds, field.description or "", in_words(schema, [name]), left_out, example])
    return rows


def reads(task: type[Task], name: str) -> bool:
    if name == "submissions":
        return task.has_submissions
    return name in (*TABLE_SETTINGS, *SOURCE_SETTINGS, *task.columns, *task.source_settings)


def metrics_table() -> str:
    rows = []
    for kind, task in KINDS.items():
        plain = metrics(task)
        cells = [names(plain)]
        for option, field in task.Options.model_fields.items():
            if field.annotation is bool and (
                more := [name for name in metrics(task, **{option: True}) if name not in plain]
            ):
                cells.append(f"with `{option}: true` also {names(more)}")
        rows.append([f"`{kind}`", "; ".join(cells)])
    return table(["kind", "metrics"], rows)


def metrics(task: type[Task], **options: bool) -> list[str]:
    return list(task("", 8, task.Options(**options)).metrics)


def entries() -> str:
    params = "tasks:\n"
    for kind, values in EXAMPLES.items():
        name = values["source"]["location"].split("/")[2]
        params = entry.with_entry(params, name, {"kind": kind, **values})
    return f"```yaml\n{params}```\n"


def shown(value: Any) -> str:
    """A value as it stands in YAML, on one line."""
    if value is None or value == "" or value == {}:
        return ""
    words = {True: "true", False: "false"}
    if isinstance(value, dict):
        return f"`{{{', '.join(f'{key}: {bare(inner)}' for key, inner in value.items())}}}`"
    if isinstance(value, list):
        return f"`[{', '.join(map(bare, value))}]`"
    return f"`{words[value] if isinstance(value, bool) else value}`"


def bare(value: Any) -> str:
    return shown(value).strip("`")


def table(head: list[str], rows: list[list[str]]) -> str:
    escaped = [[cell.replace("|", "\\|").replace("<", "\\<") for cell in row] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, ["---"] * len(head), *escaped))


if __name__ == "__main__":
    REFERENCE.write_text(text(), encoding="utf-8", newline="\n")
