"""params.yaml as typed, checked objects: every setting has its one home, type and check here."""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import ruamel.yaml
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import log

PARAMS = Path("params.yaml")
RESERVED_NAMES = (
    "train",
    "validation",
    "test",
    "task",
    "teacher",
    "student",
    "student_alone",
    "retention",
    "agreement",
)
BLANK = " (write the key, with nothing after it where there is nothing to set)"
RESERVED_TASK_NAMES = ("pretrained", "raw", "encoder", "word_vectors", "general_student")  # folders of their own
Share = Field(gt=0, lt=1)
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Dropout = Annotated[float, Field(ge=0, lt=1)] | None  # of the student; None: as its configuration has it


class Group(pydantic.BaseModel):
    """A group of settings: unknown keys and values of another type are refused."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


Name = Annotated[str, Field(min_length=1)]
Column = Name | PositiveInt  # a number from 1 where columns have no names


class Table(Group):
    """Records with columns: see ``sources`` for the forms of ``location``.

    Which of the columns are read, a task's kind says (`tasks`); each has a name that it goes by unless set.
    """

    location: str
    config: str | None = None
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    quotes: bool = True  # of CSV and TSV: fields in double quotes, a quote inside doubled
    where: dict[str, str | int | float | bool] = {}
    text: Name | None = None
    pair: Name | None = None
    words: Column | None = None
    question: Name | None = None
    passage: Name | None = None


class Source(Table):
    """Where a task's rows come from."""

    label: Name | list[Name] | None = None
    labels: dict[str, str | int | float | bool] | None = None
    separator: str | None = Field(default=None, min_length=1)
    tags: Column | None = None
    scheme: Literal["IOB2", "IOB1", "BIOES"] | None = None
    answers: Name | None = None
    group: Name | None = None
    splits: dict[Literal["train", "validation", "test"], str] | None = None
    more_tests: dict[Name, str] = {}  # name → split, scored beside `test`
    submissions: dict[Name, str] = {}  # file → split without labels, of which the predictions are wanted

    @pydantic.model_validator(mode="after")
    def _names_are_free(self) -> "Source":
        for name in (*self.more_tests, *self.submissions):
            if (
                name in RESERVED_NAMES
                or "/" in name
                or name.startswith(".")
                or name in self.more_tests.keys() & self.submissions
            ):
                raise ValueError(f"other names under more_tests and submissions than '{name}'")
        return self


class Text(Table):
    """Unlabelled text: a table, its text cut into sentences or not, with a limit of rows."""

    split: str | None = None
    sentences: bool = False
    limit: PositiveInt


class Numerics(Group):
    """What decides the numbers of every training beside its recipe."""

    seed: Seed
    precision: Literal["auto", "float32", "bfloat16"]


class Schedule(Group):
    """One training run of the library's Trainer, to its best epoch on validation.

    Learning rates rise during the warm-up, then fall linearly. A step of the optimiser takes ``accumulation`` batches.
    """

    epochs: PositiveInt
    patience: PositiveInt | None
    batch_size: PositiveInt
    accumulation: PositiveInt
    checkpointing: bool
    warmup: float = Field(ge=0, lt=1)
    weight_decay: NonNegativeFloat


class MaskedLanguageModel(Group):
    train: Literal["if_missing", "always"]
    freeze_body: bool
    text: Text
    masked_share: float = Share
    steps: PositiveInt
    batch_size: PositiveInt
    max_length: int = Field(ge=8)
    learning_rate: PositiveFloat
    warmup: float = Field(ge=0, lt=1)


class Encoder(Group):
    checkpoint: str
    seed: Seed
    masked_language_model: MaskedLanguageModel


class WordVectors(Group):
    location: str
    words: PositiveInt
    stop_words: str | None


class Prepare(Group):
    seed: Seed
    test: float = Share
    validation: float = Share


class Shape(Group):
    layers: PositiveInt
    hidden: PositiveInt
    heads: PositiveInt
    feed_forward: PositiveInt


class Losses(Group):
    """Weights of the parts of the intermediate loss; 0 switches a part off."""

    embeddings: NonNegativeFloat
    hidden: NonNegativeFloat
    attention: NonNegativeFloat


LayerMap = Literal["uniform", "first", "last"] | list[PositiveInt]


class GeneralDistillation(Group):
    text: Text
    epochs: PositiveInt
    batch_size: PositiveInt
    max_length: int = Field(ge=8)
    learning_rate: PositiveFloat
    layer_map: LayerMap
    losses: Losses
    projections: Literal["shared", "each"]
    dropout: Dropout


class GeneralStudent(Group):
    start: Literal["checkpoint", "layers", "distillation"]
    shape: Shape
    checkpoint: str
    layers: list[PositiveInt]
    distillation: GeneralDistillation


class FinetuneTeacher(Schedule):
    checkpoint: str | None
    learning_rate: PositiveFloat
    dropout: Dropout
    class_weights: bool


class Augment(Group):
    seed: Seed
    entities: bool
    variants: NonNegativeInt
    candidates: PositiveInt
    probability: float = Field(ge=0, le=1)
    masked_at_once: PositiveInt
    batch_size: PositiveInt


class DistillIntermediate(Group):
    epochs: NonNegativeInt
    batch_size: PositiveInt
    learning_rate: PositiveFloat
    layer_map: LayerMap
    losses: Losses
    projections: Literal["shared", "each"]
    dropout: Dropout
    max_rows: PositiveInt | None


class DistillPrediction(Schedule):
    targets: Literal["logits", "labels"]
    augmented: bool
    learning_rate: PositiveFloat
    dropout: Dropout
    temperature: PositiveFloat


class FinetuneStudent(Schedule):
    learning_rates: list[PositiveFloat] = Field(min_length=1)
    dropout: Dropout


class Evaluate(Group):
    seed: Seed
    resamples: PositiveInt


class Export(Group):
    frequent_words: NonNegativeInt | None
    opset: int = Field(ge=18, le=25)  # what torch's exporter writes
    per_channel: bool
    reduce_range: bool
    largest_difference: PositiveFloat
    equal_predictions: float = Field(gt=0, le=1)


class Benchmark(Group):
    batch_sizes: list[PositiveInt] = Field(min_length=1)
    runs: PositiveInt


class Licenses(Group):
    """Of what a student was made of; blank: the card says that it is not stated."""

    encoder: str | None
    teacher: str | None
    general_student: str | None
    data: str | None
    unlabelled: str | None
    word_vectors: str | None


class Package(Group):
    license: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")] | None  # as the hub names it
    language: Name
    licenses: Licenses


class Task(Group):
    """What a task is, and what it changes in the groups of the stages (blank: nothing)."""

    kind: str
    options: dict[str, Any] | None  # of the kind: see `tasks`
    source: Source
    unlabelled: Text | None
    metric: str
    max_length: int = Field(ge=8)
    general_student: dict[str, Any] | None
    finetune_teacher: dict[str, Any] | None
    augment: dict[str, Any] | None
    distill_intermediate: dict[str, Any] | None
    distill_prediction: dict[str, Any] | None
    finetune_student: dict[str, Any] | None
    evaluate: dict[str, Any] | None
    export: dict[str, Any] | None
    benchmark: dict[str, Any] | None
    package: dict[str, Any] | None


class Settings(Group):
    run: list[str] = Field(min_length=1)
    seed: Seed
    precision: Literal["auto", "float32", "bfloat16"]
    encoder: Encoder
    word_vectors: WordVectors
    prepare: Prepare
    general_student: GeneralStudent
    finetune_teacher: FinetuneTeacher
    augment: Augment
    distill_intermediate: DistillIntermediate
    distill_prediction: DistillPrediction
    finetune_student: FinetuneStudent
    evaluate: Evaluate
    export: Export
    benchmark: Benchmark
    package: Package
    tasks: dict[str, Task]

    @property
    def numerics(self) -> Numerics:
        return Numerics(seed=self.seed, precision=self.precision)

    def task(self, name: str) -> Task:
        if name not in self.tasks:
            raise UserError(_no_such_task(name, self.tasks))
        return self.tasks[name]

    def of(self, stage: str, task: str) -> Any:
        """The settings of ``stage`` for ``task``: the stage's group, with what the task's entry changes in it.

        Says each change, so that nobody's ``-S`` on the group is silently without effect.
        """
        group, own = getattr(self, stage), getattr(self.task(task), stage) or {}
        for key, ours, theirs in _differences(group.model_dump(), own):
            log(f"{stage} {task}: {key} = {ours} (tasks.{task}.{stage}), in place of {theirs} ({stage})")
        return self.quietly(stage, task)

    def quietly(self, stage: str, task: str) -> Any:
        """The same without saying it, for who only tells of it."""
        group, own = getattr(self, stage), getattr(self.task(task), stage) or {}
        return type(group).model_validate(_merge(group.model_dump(), own))


STAGES_A_TASK_MAY_CHANGE = tuple(
    name for name in Settings.model_fields if name in Task.model_fields and name != "tasks"
)


def checked(group: type[Group], values: dict[str, Any], key: str) -> Any:
    """``values`` as a ``group``; UserError where they are not. ``key`` is where they stand in params.yaml."""
    try:
        return group.model_validate(values)
    except pydantic.ValidationError as error:
        raise UserError(_explain(error, group, tuple(key.split(".")))) from None


def load(path: Path = PARAMS) -> Settings:
    """Read and check all of params.yaml.

    Raises UserError with one line that names each wrong key, what was expected there and what is like it.
    """
    raw = _read(path)
    try:
        settings = Settings.model_validate(raw)
    except pydantic.ValidationError as error:
        raise UserError(f"{path}: {_explain(error)}") from None
    for name in settings.tasks:
        _check_task(path, settings, name)
    for name in settings.run:
        if name not in settings.tasks:
            raise UserError(f"{path}: run: {_no_such_task(name, settings.tasks)}")
    return settings


def _read(path: Path) -> dict:
    # ruamel, as DVC does: `-S a=1e-5` writes 1e-05, which PyYAML would read back as a string.
    try:
        raw = ruamel.yaml.YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is not here: run the stages from the top of the repository") from None
    except (ruamel.yaml.error.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected groups of settings, found {type(raw).__name__}")
    return raw


def check_task_name(name: str, key: str) -> None:
    """Raise UserError if a task may not have this name. ``key`` is where the name stands, for the message."""
    if name in RESERVED_TASK_NAMES or not name.replace("_", "").replace("-", "").isalnum():
        reserved = ", ".join(RESERVED_TASK_NAMES)
        raise UserError(f"{key}: expected a name of letters, digits, _ and - (the names {reserved} are reserved)")


def _check_task(path: Path, settings: Settings, name: str) -> None:
    check_task_name(name, f"{path}: tasks.{name}")
    for stage in STAGES_A_TASK_MAY_CHANGE:
        group = getattr(settings, stage)
        try:
            type(group).model_validate(_merge(group.model_dump(), getattr(settings.tasks[name], stage) or {}))
        except pydantic.ValidationError as error:
            raise UserError(f"{path}: {_explain(error, type(group), ('tasks', name, stage))}") from None


def _merge(group: dict, own: dict) -> dict:
    merged = dict(group)
    for key, value in own.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _differences(group: dict, own: dict, prefix: str = "") -> list[tuple[str, Any, Any]]:
    found = []
    for key, value in own.items():
        if isinstance(value, dict) and isinstance(group.get(key), dict):
            found += _differences(group[key], value, f"{prefix}{key}.")
        elif value != group.get(key):
            found.append((f"{prefix}{key}", value, group.get(key)))
    return found


def _no_such_task(name: str, tasks: dict) -> str:
    return f"no task '{name}' under `tasks`{_like(name, tasks)} (defined: {', '.join(tasks)})"


def _like(word: str, known: Any) -> str:
    close = difflib.get_close_matches(str(word), [str(key) for key in known], n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def _explain(error: pydantic.ValidationError, root: type[Group] = Settings, prefix: tuple[str, ...] = ()) -> str:
    """All that is wrong in one line: key, what is wrong with it, what was expected."""
    lines = {}
    for item in error.errors():
        keys = [key for key in item["loc"] if not (isinstance(key, str) and _is_union_branch(key))]
        name = ".".join(str(key) for key in (*prefix, *keys))
        if item["type"] == "extra_forbidden":
            known = _known_keys(root, keys[:-1])
            lines.setdefault(name, f"{name}: unknown setting{_like(keys[-1], known)} (known here: {', '.join(known)})")
        elif item["type"] == "missing":
            lines.setdefault(name, f"{name}: missing" + (BLANK if _may_be_blank(root, keys) else ""))
        elif name in lines:  # the next form that a value may have
            lines[name] = lines[name].replace(", found", f" or {_expected(item, root, keys)}, found", 1)
        else:
            found = f"found {item['input']!r} ({type(item['input']).__name__})"
            lines[name] = f"{name}: expected {_expected(item, root, keys)}, {found}"
    return "; ".join(lines.values())


def _expected(item: Any, root: type[Group], keys: list) -> str:
    if item["type"] == "model_type":
        return f"a group of settings ({', '.join(_known_keys(root, keys))})"
    if item["type"] == "dict_type":
        return "a group of settings"
    if item["type"] == "too_short":
        return f"a list of {item['ctx']['min_length']} or more"
    return item["msg"].removeprefix("Input should be ")


def _may_be_blank(root: type[Group], keys: list) -> bool:
    """Whether a key, which DVC needs to be there, may stand with nothing after it."""
    last = _group_at(root, keys[:-1]).model_fields[keys[-1]].annotation
    return type(None) in getattr(last, "__args__", ())


def _is_union_branch(key: str) -> bool:
    """What pydantic adds to the place of an error, and is no key of the file."""
    return key.startswith(("literal[", "list[", "constrained-")) or key in ("str", "int", "float", "bool", "[key]")


def _known_keys(model: Any, keys: list) -> list[str]:
    return list(getattr(_group_at(model, keys), "model_fields", {}))


def _group_at(model: Any, keys: list) -> Any:
    """The type of what stands under ``keys``, a group where there is one."""
    for key in keys:
        fields = getattr(model, "model_fields", {})
        annotation = fields[key].annotation if key in fields else model
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        groups = [kind for kind in candidates if isinstance(kind, type) and issubclass(kind, Group)]
        model = groups[0] if groups else annotation
    return model
