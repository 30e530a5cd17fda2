"""The one seam between task kinds. Everything that differs between them stands behind ``Task``.

A kind is one module here with a class of that form, entered in ``KINDS``; nothing else names a kind.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.output import write_json
from pipeline.tinybert.core.settings import Task as TaskSettings
from pipeline.tinybert.core.settings import checked
from pipeline.tinybert.tasks.multi_label import MultiLabel
from pipeline.tinybert.tasks.named_entities import NamedEntities
from pipeline.tinybert.tasks.question_answering import QuestionAnswering
from pipeline.tinybert.tasks.regression import Regression
from pipeline.tinybert.tasks.task import Task
from pipeline.tinybert.tasks.text_classification import TextClassification

KINDS: dict[str, type[Task]] = {
    "text_classification": TextClassification,
    "regression": Regression,
    "multi_label": MultiLabel,
    "named_entities": NamedEntities,
    "question_answering": QuestionAnswering,
}


def create(wanted: TaskSettings, name: str, labels: Iterable[str] = ()) -> Task:
    """The task that params.yaml has as ``name``. Raises UserError where its kind, options or metric do not exist."""
    key = f"tasks.{name}"
    kind = KINDS.get(wanted.kind)
    if kind is None:
        raise UserError(f"params.yaml: {key}.kind: expected one of {', '.join(KINDS)}, found '{wanted.kind}'")
    options = checked(kind.Options, wanted.options or {}, f"params.yaml: {key}.options")
    task = kind(wanted.metric, wanted.max_length, options, labels)
    if task.metric not in task.metrics:
        raise UserError(
            f"params.yaml: {key}.metric: expected one of {', '.join(task.metrics)} for {wanted.kind}, found"
            f" '{task.metric}'"
        )
    return task


def save(task: Task, path: Path) -> None:
    """What the rows say of the task. The rest stays in its settings: a change there reruns only what reads it."""
    write_json(path, {"labels": task.labels})


def load(path: str | Path, wanted: TaskSettings, name: str) -> Task:
    """The task as ``save`` left it, with its settings."""
    return create(wanted, name, **json.loads(Path(path).read_text(encoding="utf-8")))
