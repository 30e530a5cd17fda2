"""params.yaml as typed, validated objects: the only place with the type, range and meaning of each setting.

docs/reference.md is made from it.
"""

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field, PositiveFloat

from pipeline.tinybert.core import yaml_file
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import log
from pipeline.tinybert.core.schema import Group, explain, suggestion

LONGEST_NAME = 100  # of a task: folders have it
PARAMS = Path("params.yaml")
RESERVED_NAMES = (
    "train",
    "validation",
    "test",
    "unlabelled",
    "task",
    "teacher",
    "student",
    "student_alone",
    "retention",
    "agreement",
    "gain",
    "teacher_gain",
    "teachers",
    "test_rows",
)
RESERVED_TASK_NAMES = (
    "pretrained",
    "raw",
    "encoder",
    "word_vectors",
    "general_student",
    "summary",
    "finetune_teacher",
)  # folders of their own
Share = Annotated[float, Field(gt=0, lt=1)]
Warmup = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Dropout = Annotated[float, Field(ge=0, lt=1)] | None
# Larger values would run forever or overflow.
Length = Annotated[int, Field(ge=8, le=100_000)]
Epochs = Annotated[int, Field(ge=1, le=100_000)]
Steps = Annotated[int, Field(ge=1, le=100_000_000)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]  # of rows, texts or words
NewTexts = Annotated[int, Field(ge=0, le=10_000_000)]
PerWord = Annotated[int, Field(ge=1, le=10_000)]
Layer = Annotated[int, Field(ge=1, le=1_000)]
Size = Annotated[int, Field(ge=1, le=100_000)]  # of a batch, a layer or a table
Weight = Annotated[float, Field(ge=0, le=1_000_000)]
Name = Annotated[str, Field(min_length=1)]
HubName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?$")]  # NAME or OWNER/NAME
Character = Annotated[str, Field(min_length=1, max_length=1)]
Column = Name | Size  # the number of the column, from 1, if columns have no names
ColumnOrColumns = Name | Annotated[list[Name], Field(min_length=1)]  # a column, or columns whose texts are joined
Value = str | int | float | bool
LayerMap = Literal["auto", "uniform", "first", "last"] | list[Layer]


class Table(Group):
    """Records with columns. The forms of ``location`` are in `data.locations`.

    The task's kind says which columns are read, and by which names unless they are set here.
    """

    location: str = Field(
        description="a file or folder below data/raw/<task>, package:NAME@VERSION/PATH or hub:OWNER/NAME@COMMIT"
    )
    config: str | None = Field(None, description="configuration of a dataset of the hub", examples=["sst2"])
    delimiter: Character | None = Field(None, description="character between the columns of a file", examples=[";"])
    quotes: bool | None = Field(
        None, description="false: a quote in CSV or TSV is an ordinary character; blank: quotes enclose a field"
    )
    where: dict[str, Value | Annotated[list[Value], Field(min_length=1)]] = Field(
        {},
        description="only rows with these values in these columns; a list: with any of its values",
        examples=[{"language": ["en", "de"], "checked": True}],
    )
    bad_rows: Literal["drop"] | None = Field(
        None,
        description="drop: leave out invalid rows (an empty text, no label, …), list and count them; blank: stop",
        examples=["drop"],
    )
    text: ColumnOrColumns | None = Field(
        None,
        description="column of the text, or columns to join by line breaks; named_entities reads it in unlabelled"
        " rows and beside `entities`",
        examples=[["subject", "body"]],
    )
    pair: ColumnOrColumns | None = Field(
        None, description="column of the second text of a pair, or columns to join", examples=["sentence2"]
    )
    words: Column | None = Field(None, description="column of the list of words; CoNLL: its number", examples=[1])
    question: ColumnOrColumns | None = Field(
        None, description="column of the question, or columns to join", examples=["query"]
    )
    passage: Name | None = Field(None, description="column of the passage that holds the answer", examples=["context"])


class Source(Table):
    """Where the rows of a task come from."""

    label: Name | list[Name] | None = Field(
        None, description="column of the label; multi_label: also a list of columns of 0 and 1", examples=["sentiment"]
    )
    labels: dict[str, str | int | float | bool] | None = Field(
        None, description="name of each label or tag: its value in the file", examples=[{"negative": 0, "positive": 1}]
    )
    separator: Name | None = Field(
        None, description="text between the labels in a column; blank: a comma", examples=["|"]
    )
    tags: Column | None = Field(None, description="column of the list of tags; CoNLL: its number", examples=[4])
    scheme: Literal["IOB2", "IOB1", "BIOES"] | None = Field(
        None, description="scheme of the tags; BIOES may be written as BILOU; blank: IOB2", examples=["BIOES"]
    )
    entities: Name | None = Field(
        None,
        description="column of the entities of a text as character offsets, in place of words and tags:"
        " [[start, end, type], …] or [{start, end, label}, …]",
        examples=["label"],
    )
    answers: Name | None = Field(
        None, description="column of the answers, each with text and answer_start", examples=["answers"]
    )
    group: Name | None = Field(
        None, description="column of a group: all rows of a group go into the same split", examples=["film"]
    )
    splits: dict[Literal["train", "validation", "test"], str] | None = Field(
        None,
        description="file in the folder, or split of the hub, for each split; missing ones are split off train",
        examples=[{"train": "train.csv", "test": "test.csv"}],
    )
    split_column: Name | None = Field(
        None,
        description="column with the split of each row, in place of `splits`: train, validation (or val, valid, dev) or"
        " test; missing ones are split off train",
        examples=["split"],
    )
    more_tests: dict[Name, str] = Field(
        {}, description="further test sets to score: name: file or split", examples=[{"mismatched": "mismatched.csv"}]
    )
    submissions: dict[Name, str] = Field(
        {},
        description="predictions to write for a benchmark's server: name of the output: file or split without labels",
        examples=[{"CoLA.tsv": "test.csv"}],
    )

    @pydantic.model_validator(mode="after")
    def _check_entities(self) -> "Source":
        if self.entities is not None and isinstance(self.text, list):
            raise ValueError("text: expected one column, as the offsets of `entities` count its characters")
        for name in ("words", "tags", "scheme"):
            if self.entities is not None and getattr(self, name) is not None:
                raise ValueError(f"{name}: not read beside `entities`: remove one of them")
        return self

    @pydantic.model_validator(mode="after")
    def _check_splits(self) -> "Source":
        if self.split_column is not None and self.splits is not None:
            raise ValueError("split_column: not read beside `splits`: remove one of them")
        if self.split_column is not None and (self.more_tests or self.submissions):
            raise ValueError("split_column: more_tests and submissions need files of their own: use `splits`")
        return self

    @pydantic.model_validator(mode="after")
    def _check_names(self) -> "Source":
        twice = self.more_tests.keys() & self.submissions
        for name in (*self.more_tests, *self.submissions):
            if name in RESERVED_NAMES or name in twice or "/" in name or name.startswith("."):
                raise ValueError(
                    f"'{name}' cannot be a name under more_tests or submissions (reserved, used twice, or with / or a"
                    " leading dot): choose another"
                )
        return self


class Text(Table):
    """Unlabelled text."""

    split: str | None = Field(None, description="file in the folder, or split of the hub", examples=["train"])
    sentences: bool | None = Field(
        None, description="true: split texts into sentences, and drop those of fewer than 3 words; blank: false"
    )
    limit: Count = Field(description="use at most this many rows, drawn at random", examples=[50000])


class Numerics(Group):
    """Seed and precision, which every training stage uses in addition to its own group."""

    seed: Seed
    precision: Literal["auto", "float32", "bfloat16"]


MIN_STEPS = (
    "minimum number of optimizer steps; if the epochs give fewer, the batch shrinks (down to 8 rows), then epochs"
    " are added, the last of which may end early; blank: no minimum"
)


class Schedule(Group):
    """Training with a score on validation after each epoch. The model of the last epoch counts, unless an earlier one
    is better by more than a standard error. The learning rate rises, then falls linearly to 0.
    """

    epochs: Epochs = Field(description="passes over the training rows")
    min_steps: Steps | None = Field(description=MIN_STEPS)
    patience: Epochs | None = Field(description="stop after this many epochs without a better score; blank: never")
    batch_size: Size = Field(description="rows in a batch")
    accumulation: Size = Field(description="batches in an optimizer step")
    checkpointing: bool = Field(description="true: recompute activations, for less memory and more time")
    learning_rate: PositiveFloat | Annotated[list[PositiveFloat], Field(min_length=1)] = Field(
        description="peak learning rate; a list: the stage tries each, and the best one on validation counts"
    )
    warmup: Warmup = Field(description="share of the steps in which the learning rate rises")
    weight_decay: Weight = Field(description="weight decay of AdamW")
    dropout: Dropout = Field(description="dropout of the trained model; blank: that of its configuration")
    calibrate: bool = Field(
        description="divide the trained model's logits by the temperature that fits validation: probabilities change,"
        " predictions do not"
    )

    @pydantic.field_validator("learning_rate")
    @classmethod
    def _no_rate_twice(cls, found: float | list[float]) -> float | list[float]:
        if isinstance(found, list) and len({f"{rate:g}" for rate in found}) < len(found):  # as the trials are named
            raise ValueError(f"a learning rate occurs twice in {found}: remove one")
        return found

    @property
    def learning_rates(self) -> list[float]:
        return self.learning_rate if isinstance(self.learning_rate, list) else [self.learning_rate]


class MaskedLanguageModel(Group):
    train: Literal["if_missing", "always"] = Field(
        description="train the head only if the checkpoint has none, or always"
    )
    freeze_body: bool = Field(description="true: train only the head")
    text: Text = Field(description="text to train on")
    masked_share: Share = Field(description="share of the word pieces that are masked")
    steps: Steps = Field(description="optimizer steps")
    batch_size: Size = Field(description="texts in a batch")
    max_length: Length = Field(description="longest text in word pieces")
    learning_rate: PositiveFloat = Field(description="peak learning rate")
    warmup: Warmup = Field(description="share of the steps in which the learning rate rises")


class Encoder(Group):
    checkpoint: str = Field(
        description="pre-trained encoder: package:NAME@VERSION/FOLDER, hub:OWNER/NAME@COMMIT or a folder"
    )
    seed: Seed = Field(description="seed of the training of the masked language model")
    masked_language_model: MaskedLanguageModel = Field(description="the model that proposes words for `augment`")


class WordVectors(Group):
    location: str = Field(description="package:NAME@VERSION, gensim:NAME@MD5, or a text file of GloVe or word2vec")
    words: Count = Field(description="use this many of the most frequent words")
    stop_words: str | None = Field(
        description="words that are never replaced: english, or a text file with one word a line; blank: no such words"
    )


class Prepare(Group):
    seed: Seed = Field(description="seed of the splits and of the choice of unlabelled rows")
    test: Share = Field(description="share of all rows for test, if the source has no test split")
    validation: Share = Field(description="share of all rows for validation, if the source has no validation split")


class Shape(Group):
    layers: Layer = Field(description="layers of the student")
    hidden: Size = Field(description="width of its hidden states")
    heads: Size = Field(description="attention heads")
    feed_forward: Size = Field(description="width of the feed-forward layers")


class Losses(Group):
    embeddings: Weight = Field(description="weight of the embedding loss; 0: off")
    hidden: Weight = Field(description="weight of the hidden state loss; 0: off")
    attention: Weight = Field(description="weight of the attention score loss; 0: off")
    relations: Weight = Field(
        description="weight of the relation loss (MiniLMv2) between the last layers of both, with any numbers of heads;"
        " 0: off"
    )


class LayerDistillation(Group):
    """How a student learns a teacher's embeddings, hidden states and attention."""

    epochs: Epochs = Field(description="passes over the text")
    min_steps: Steps | None = Field(description=MIN_STEPS)
    batch_size: Size = Field(description="rows in a batch")
    learning_rate: PositiveFloat = Field(description="learning rate; it is constant")
    layer_map: LayerMap = Field(
        description="teacher layer for each student layer: a rule (auto: from the first to the last in equal steps), or"
        " a list of teacher layers from 1"
    )
    losses: Losses = Field(description="weights of the losses")
    relation_heads: Size = Field(
        description="heads into which the relation loss divides both models; it divides both widths"
    )
    projections: Literal["shared", "each"] = Field(
        description="linear maps from the student's width to the teacher's: one for all states, or one for each"
    )
    dropout: Dropout = Field(description="dropout of the student; blank: that of its configuration")


class GeneralDistillation(LayerDistillation):
    text: Text = Field(description="text to distil on")
    max_length: Length = Field(description="longest text in word pieces")


class GeneralStudent(Group):
    start: Literal["checkpoint", "layers", "distillation"] = Field(
        description="initial student: a checkpoint, layers of the encoder, or the result of general distillation"
    )
    shape: Shape = Field(description="size of the student")
    checkpoint: str = Field(
        description="if start is checkpoint: package:NAME@VERSION/FOLDER, hub:OWNER/NAME@COMMIT or a folder"
    )
    layers: Literal["auto"] | list[Layer] = Field(
        description="if start is layers: the layers of the encoder, from 1, or auto: from the first to the last in"
        " equal steps"
    )
    distillation: GeneralDistillation = Field(
        description="if start is distillation: the settings of general distillation"
    )
    presets: dict[Name, dict[str, Any]] = Field(
        {}, description="values for several of these keys, by name; a task's entry uses one with {preset: NAME}"
    )


def _as_list(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else value or []


class FinetuneTeacher(Schedule):
    encoder: str | Annotated[list[str], Field(min_length=1)] | None = Field(
        description="encoder to fine-tune in place of encoder.checkpoint, in the same form (a folder lies below"
        " data/raw/finetune_teacher); its family may differ; a list: one teacher per encoder; blank: encoder.checkpoint"
    )
    seeds: Annotated[list[Seed], Field(min_length=1)] | None = Field(
        description="one teacher for each seed: the student learns the mean of their logits; blank: one teacher, with"
        " the global seed"
    )
    checkpoint: str | Annotated[list[str], Field(min_length=1)] | None = Field(
        description="your own fine-tuned teacher: data/raw/<task>/teacher or hub:OWNER/NAME@COMMIT; a list: several;"
        " blank: fine-tune"
    )
    similarity_steps: int = Field(
        ge=0,
        le=100_000_000,
        description="steps in which the teacher first learns the cosine similarity of the encoder's embeddings of two"
        " texts; for pairs, if this similarity explains at least 10 % of the labels' variance; the learning rate on the"
        " labels is then multiplied by 0.3; 0: off",
    )
    contrast_steps: int = Field(
        ge=0,
        le=100_000_000,
        description="contrastive steps before the labels: texts of one class move together; only for single texts with"
        " a class, and only if min_steps amounts to 10 epochs or more; 0: none",
    )
    predictions: str | None = Field(
        description="a file below data/raw/<task>/teacher with the probability of each class for training and"
        " unlabelled rows, in place of a teacher; blank: none"
    )
    class_weights: bool = Field(
        description="true: rare classes weigh more in the loss (text_classification, named_entities)"
    )

    @pydantic.model_validator(mode="after")
    def _check_sources_and_seeds(self) -> "FinetuneTeacher":
        named = [name for name in ("encoder", "checkpoint", "predictions") if getattr(self, name)]
        if len(named) > 1:
            raise ValueError(f"{' and '.join(named)} exclude one another: leave all but one of them blank")
        if self.seeds and len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: {self.seeds} repeats a seed: the same teacher twice teaches nothing more")
        return self

    @property
    def encoders(self) -> list[str]:
        """The encoders of the teachers' own; empty if they start from the encoder."""
        return _as_list(self.encoder)

    @property
    def checkpoints(self) -> list[str]:
        """The user's own fine-tuned teachers; empty if the stage trains them."""
        return _as_list(self.checkpoint)


class Augment(Group):
    seed: Seed = Field(description="seed of the replaced words")
    entities: bool = Field(description="true: also replace named entities by others of their type (named_entities)")
    general_texts: NewTexts = Field(
        description="texts of encoder.masked_language_model.text that the teacher labels, if the task has no unlabelled"
        " text and its rows are single texts; 0: none"
    )
    new_pairs: NewTexts = Field(
        description="new pairs of the texts of train and their variants that the teacher labels, if the task's rows are"
        " pairs; 0: none"
    )
    variants: Annotated[int, Field(ge=0, le=10_000)] | Literal["auto"] = Field(
        description="N: augmented variants of each row; auto: as many as make 18,000 rows, between 1 and 20"
    )
    candidates: PerWord = Field(description="K: candidates for each word")
    probability: float = Field(ge=0, le=1, description="p: probability that a word is replaced")
    masked_at_once: PerWord = Field(
        description="words masked per forward pass; in texts of 80 or more word pieces: per 9 word pieces"
    )
    batch_size: Size = Field(description="texts in a forward pass; changes the speed, not the result")


class DistillIntermediate(LayerDistillation):
    epochs: int = Field(ge=0, le=100_000, description="passes over the rows; 0: only compute the teacher's logits")
    max_rows: Count | None = Field(description="train on this many rows, drawn at random; blank: on all rows")


class DistillPrediction(Schedule):
    targets: Literal["logits", "labels"] = Field(
        description="what the student learns: the teacher's logits, or the labels of train (for comparison)"
    )
    augmented: bool = Field(description="false: do not train on variants and new pairs")
    temperature: float = Field(gt=0, le=1_000, description="temperature of the logits of teacher and student")


class FinetuneStudent(Schedule):
    """The baseline: the student on labels alone."""


class Evaluate(Group):
    seed: Seed = Field(description="seed of the bootstrap")
    resamples: int = Field(ge=1, le=1_000_000, description="resamples of the bootstrap, for the intervals")


class Export(Group):
    frequent_words: Annotated[int, Field(ge=0, le=1_000_000_000)] | None = Field(
        description="trim the vocabulary to the words of train and this many words of word_vectors; blank: keep all"
    )
    # torch's exporter writes 18 and above. Above 22, onnxruntime cannot load the int8 files that it writes itself.
    opset: int = Field(ge=18, le=22, description="ONNX opset")
    per_channel: bool = Field(description="int8: true: one scale for each output of a matrix product")
    reduce_range: bool = Field(description="int8: true: weights of 7 bits, because sums overflow on CPUs without VNNI")
    largest_difference: PositiveFloat = Field(description="largest difference allowed between ONNX and PyTorch logits")
    equal_predictions: float = Field(gt=0, le=1, description="least share of predictions on test that must be equal")


class Benchmark(Group):
    batch_sizes: list[Size] = Field(min_length=1, description="batch sizes to time")
    seconds: float = Field(
        ge=0, le=1_000_000, description="duration of the timed runs in each situation; at least 3 runs of each model"
    )


class Review(Group):
    """What `.github/review.py` lets pass. No stage reads it."""

    tolerance: float = Field(
        ge=0,
        lt=1,
        description="a student or int8 model that is measurably worse fails only if its score fell by more than this",
    )


class Licenses(Group):
    encoder: str | None = Field(description="licence of the encoder; blank: not stated")
    teacher: str | None = Field(description="licence of your own teacher; blank: not stated")
    general_student: str | None = Field(description="licence of the student's checkpoint; blank: not stated")
    data: str | None = Field(description="licence of the task's rows; blank: not stated")
    unlabelled: str | None = Field(description="licence of the unlabelled text; blank: not stated")
    word_vectors: str | None = Field(description="licence of the word vectors; blank: not stated")


class Package(Group):
    license: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")] | None = Field(
        description="licence of the student, as the hub names it (apache-2.0, mit); blank: not stated"
    )
    language: Name = Field(description="language in the model card, as a code")
    example: dict[str, Any] | None = Field(
        description="input that the model card shows with its answer; blank: a row of test",
        examples=[{"text": "a warm, funny film"}],
    )
    base_model: HubName | Annotated[list[HubName], Field(min_length=1)] | None = Field(
        description="for the model card: the hub's name of the model (or a list) that the student's weights come from;"
        " blank: known if its location is `hub:`",
        examples=["sentence-transformers/all-MiniLM-L6-v2"],
    )
    datasets: HubName | Annotated[list[HubName], Field(min_length=1)] | None = Field(
        description="for the model card: the hub's name of the dataset of the rows (or a list); blank: known if their"
        " location is `hub:`",
        examples=["nyu-mll/glue"],
    )
    licenses: Licenses = Field(description="licences of the parts, in the model card")


OVERRIDES_HELP = "overrides of the group of this name, for this task only; blank: none"
Overrides = dict[str, Any] | None


class Task(Group):
    """What a task is, and its overrides of the stages' settings."""

    kind: str = Field(description="kind of task")
    options: dict[str, Any] | None = Field(description="settings of the kind; blank: their defaults")
    source: Source = Field(description="where the rows come from")
    unlabelled: Text | None = Field(
        description="further text, which the teacher labels; blank: general text, see augment.general_texts"
    )
    metric: str = Field(description="score that selects models and is reported")
    max_length: Length = Field(description="longest text in word pieces; longer ones are cut")
    general_student: Overrides = Field(description=OVERRIDES_HELP)
    finetune_teacher: Overrides = Field(description=OVERRIDES_HELP)
    augment: Overrides = Field(description=OVERRIDES_HELP)
    distill_intermediate: Overrides = Field(description=OVERRIDES_HELP)
    distill_prediction: Overrides = Field(description=OVERRIDES_HELP)
    finetune_student: Overrides = Field(description=OVERRIDES_HELP)
    evaluate: Overrides = Field(description=OVERRIDES_HELP)
    export: Overrides = Field(description=OVERRIDES_HELP)
    benchmark: Overrides = Field(description=OVERRIDES_HELP)
    package: Overrides = Field(description=OVERRIDES_HELP)


class Settings(Group):
    run: list[str] = Field(min_length=1, description="the tasks that `dvc repro` runs")
    seed: Seed = Field(description="seed of all training")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        description="number format of all training; auto: bfloat16 if the processor computes in it, else float32"
    )
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
    review: Review
    package: Package
    tasks: dict[str, Task]

    @property
    def numerics(self) -> Numerics:
        return Numerics(seed=self.seed, precision=self.precision)

    def task(self, name: str) -> Task:
        if name not in self.tasks:
            raise UserError(_no_such_task(name, self.tasks))
        return self.tasks[name]

    def teacher_may_know_test(self, task: str) -> bool:
        """Whether the task's test rows may be among those of its teacher's training: the teacher is the user's own, and
        the source names no test split. Then scores of teacher and student mean nothing.
        """
        checkpoints = self.quietly("finetune_teacher", task).checkpoints
        source = self.task(task).source
        return bool(checkpoints) and source.split_column is None and "test" not in (source.splits or {})

    def of(self, stage: str, task: str) -> Any:
        """A stage's effective settings for a task: its group with the task's overrides.

        Logs each override, because it hides the value that ``dvc exp run -S`` may have given to the group.
        """
        group = getattr(self, stage)
        for key, task_value, group_value in _differences(group.model_dump(), self.overrides(stage, task)):
            log(f"{stage} {task}: {key} = {task_value} (tasks.{task}.{stage}), in place of {group_value} ({stage})")
        return self.quietly(stage, task)

    def quietly(self, stage: str, task: str) -> Any:
        """The same as ``of``, without logging."""
        return self._with_overrides(stage, self.overrides(stage, task))

    def _with_overrides(self, stage: str, overrides: dict[str, Any]) -> Any:
        group = getattr(self, stage)
        return type(group).model_validate(_merge(group.model_dump(exclude={"presets"}), overrides))

    def overrides(self, stage: str, task: str) -> dict[str, Any]:
        """A task's overrides of a stage's group: the preset that its entry names, and over it the entry's values."""
        overrides, presets = dict(getattr(self.task(task), stage) or {}), getattr(getattr(self, stage), "presets", None)
        if presets is None or "preset" not in overrides:
            return overrides
        name = overrides.pop("preset")
        if not isinstance(name, str) or name not in presets:
            raise UserError(
                f"tasks.{task}.{stage}.preset: expected one of {', '.join(presets)} ({stage}.presets), found {name!r}"
            )
        return _merge(presets[name], overrides)


STAGES_A_TASK_MAY_CHANGE = tuple(
    name for name in Settings.model_fields if name in Task.model_fields and name != "tasks"
)


def checked(group: type[Group], values: dict[str, Any], key: str) -> Any:
    """``values`` as a ``group``. Raises UserError if they are wrong; ``key`` is their place, for the message."""
    try:
        return group.model_validate(values)
    except pydantic.ValidationError as error:
        raise UserError(explain(error, group, tuple(key.split(".")), _find_key)) from None


def _find_key(key: str) -> list[str]:
    """Where params.yaml has a setting of this name."""

    def within(kind: Any, prefix: str) -> Iterator[str]:
        for name, field in getattr(kind, "model_fields", {}).items():
            if name == key:
                yield prefix + name
            inner = f"{prefix}{name}." + ("<task>." if name == "tasks" else "")
            for part in (field.annotation, *typing.get_args(field.annotation)):
                yield from within(part, inner)

    return list(within(Settings, ""))


def load(path: Path = PARAMS) -> Settings:
    """Read and check all of params.yaml. Raises UserError: one line with each wrong key and what was expected."""
    raw = yaml_file.read(path)
    try:
        settings = Settings.model_validate(raw)
    except pydantic.ValidationError as error:
        raise UserError(f"{path}: {explain(error, Settings, (), _find_key)}") from None
    for name, values in settings.general_student.presets.items():
        _check_overrides(path, settings, "general_student", values, ("general_student", "presets", name))
    for name in settings.tasks:
        _check_task(path, settings, name)
    for name in settings.run:
        if name not in settings.tasks:
            raise UserError(f"{path}: run: {_no_such_task(name, settings.tasks)}")
    return settings


def check_task_name(name: str, key: str) -> None:
    """Raise UserError if a task may not have this name. ``key`` is where the name stands, for the message."""
    is_word = name.replace("_", "").replace("-", "").isalnum()
    if name in RESERVED_TASK_NAMES or not is_word or len(name) > LONGEST_NAME:
        reserved = ", ".join(RESERVED_TASK_NAMES)
        raise UserError(
            f"{key}: expected a name of letters, digits, _ and - (at most {LONGEST_NAME}; {reserved} are reserved)"
        )


def _check_task(path: Path, settings: Settings, name: str) -> None:
    check_task_name(name, f"{path}: tasks.{name}")
    for stage in STAGES_A_TASK_MAY_CHANGE:
        try:
            overrides = settings.overrides(stage, name)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        _check_overrides(path, settings, stage, overrides, ("tasks", name, stage))


def _check_overrides(path: Path, settings: Settings, stage: str, overrides: dict, keys: tuple[str, ...]) -> None:
    try:
        settings._with_overrides(stage, overrides)
    except pydantic.ValidationError as error:
        raise UserError(f"{path}: {explain(error, type(getattr(settings, stage)), keys, _find_key)}") from None


def _merge(group: dict, overrides: dict) -> dict:
    merged = dict(group)
    for key, value in overrides.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _differences(group: dict, overrides: dict, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """The dotted key, the task's value and the group's value of each setting that the overrides change."""
    found = []
    for key, value in overrides.items():
        if isinstance(value, dict) and isinstance(group.get(key), dict):
            found += _differences(group[key], value, f"{prefix}{key}.")
        elif value != group.get(key):
            found.append((f"{prefix}{key}", value, group.get(key)))
    return found


def _no_such_task(name: str, tasks: dict) -> str:
    return f"no task '{name}' under `tasks`{suggestion(name, tasks)} (defined: {', '.join(tasks)})"
