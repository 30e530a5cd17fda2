"""Task kinds. Everything that differs between kinds is behind the interface ``Task``.

Each kind is one module here with a subclass of ``Task``, registered in ``KINDS``. Outside this room, only
`guessing` (what files look like) and `release` (answers, model card) name kinds.
"""

from collections.abc import Iterable
from pathlib import Path

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.output import damaged, read_json, write_json
from pipeline.tinybert.core.settings import Settings, checked
from pipeline.tinybert.core.settings import Task as TaskSettings
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


def create(settings: TaskSettings, name: str, labels: Iterable[str] = ()) -> Task:
    """The task ``tasks.<name>`` of params.yaml. Raises UserError if its kind, metric or an option does not exist.

    ``labels``: in the order of the model's outputs; empty before the training rows have been read.
    """
    key = f"tasks.{name}"
    kind = KINDS.get(settings.kind)
    if kind is None:
        raise UserError(f"params.yaml: {key}.kind: expected one of {', '.join(KINDS)}, found '{settings.kind}'")
    options = checked(kind.Options, settings.options or {}, f"params.yaml: {key}.options")
    task = kind(settings.metric, settings.max_length, options, labels)
    if task.metric not in task.metrics:
        raise UserError(
            f"params.yaml: {key}.metric: expected one of {', '.join(task.metrics)} for {settings.kind}, found"
            f" '{task.metric}'"
        )
    return task


def save(task: Task, path: Path) -> None:
    """Write what was learned from the rows: the labels. Settings are not copied, so that a changed setting reruns only
    the stages that read it.
    """
    write_json(path, {"labels": task.labels})


def load(settings: Settings, name: str) -> Task:
    """The task ``name`` with its settings and the labels that `prepare` wrote with ``save``."""
    path = Path("data", name, "prepared", "task.json")
    try:
        labels = read_json(path)["labels"]
    except (KeyError, TypeError):
        raise damaged(path) from None
    return create(settings.task(name), name, labels)
