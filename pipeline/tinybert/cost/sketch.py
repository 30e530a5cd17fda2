"""Steps and minutes of each stage of a task, from the numbers and lengths of its rows and the speed of this machine."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, product
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import AutoConfig

from pipeline.tinybert.augmentation import word_replacement
from pipeline.tinybert.augmentation.candidates import count_forwards
from pipeline.tinybert.core.log import log, without_counts
from pipeline.tinybert.core.settings import Schedule, Settings, Shape, Text
from pipeline.tinybert.cost.speed import Machine, Mode
from pipeline.tinybert.data import locations, sources, word_vectors
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.data.words import is_word
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.models.inference import BATCH, encode
from pipeline.tinybert.models.known_logits import KnownLogits
from pipeline.tinybert.release import latency
from pipeline.tinybert.tasks import Task
from pipeline.tinybert.training import contrast, own_teacher, similarity
from pipeline.tinybert.training.plan import epochs_text, fitted

SAMPLED = 500  # rows or texts whose lengths stand for all
MORE_PIECES = 4  # all rows and variants have about this many times as many distinct word pieces as the sample
START = 4.0  # seconds for a stage's imports and files
EXPORT = 6.0  # seconds more to write ONNX files
AUGMENT_OVERHEAD = 1.2  # `augment` takes this many times as long as the layers of its model
# Running teacher and student in PyTorch, ONNX and int8 takes this many times as long as the teacher in PyTorch.
LATENCY_FACTOR = 3
LONG = 3600  # seconds from which advice is given
LONG_TEXT = 100  # word pieces
LARGE_SHARE = 0.3  # of the transfer set


@dataclass(frozen=True)
class Sequences:
    """The number of sequences, the sum of their lengths in word pieces, and the sum of the squared lengths."""

    count: int = 0
    pieces: float = 0
    squared_lengths: float = 0

    @classmethod
    def estimate(cls, lengths: list[int], sampled: int, total: int) -> Sequences:
        """An estimate for ``total`` rows from ``sampled`` rows, whose sequences have these ``lengths``."""
        scale, own = total / max(sampled, 1), np.array(lengths, dtype=float)
        return cls(round(len(own) * scale), float(own.sum() * scale), float(np.square(own).sum() * scale))

    def times(self, factor: float) -> Sequences:
        return Sequences(round(self.count * factor), self.pieces * factor, self.squared_lengths * factor)

    def at_most(self, count: int | None) -> Sequences:
        """A sample of this size, if it is smaller."""
        return self if count is None or count >= self.count else self.times(count / self.count)

    def cut(self, longest: float) -> Sequences:
        """An estimate after truncation at ``longest`` word pieces, as if all sequences had the mean length."""
        share = min(1.0, longest / max(self.mean, 1))
        return Sequences(self.count, self.pieces * share, self.squared_lengths * share**2)

    def __add__(self, other: Sequences) -> Sequences:
        squared_lengths = self.squared_lengths + other.squared_lengths
        return Sequences(self.count + other.count, self.pieces + other.pieces, squared_lengths)

    @property
    def mean(self) -> int:
        return math.ceil(self.pieces / max(self.count, 1))


@dataclass(frozen=True)
class Cost:
    """A stage: what it computes, its optimizer steps, about how many seconds."""

    stage: str
    what: str
    steps: int
    seconds: float


class Sketch:
    """The costs of a task's stages.

    parts: its splits. encoder: the folder of the encoder. known: what a file of predictions knows. Teachers have the
    shapes of their own encoders, if they have any, but lengths are counted in the encoder's word pieces.
    """

    def __init__(
        self,
        configuration: Settings,
        name: str,
        task: Task,
        parts: dict[str, list[Row]],
        unlabelled: list[Row],
        encoder: Path,
        known: KnownLogits | None = None,
    ):
        self.configuration, self.name, self.task = configuration, name, task
        self.parts, self.unlabelled, self.known = parts, unlabelled, known
        self.tokenizer = checkpoints.tokenizer(encoder, "encoder.checkpoint")
        self.config = _config(encoder)
        self.shape = checkpoints.shape_of(self.config)
        self.teachers = self.teacher_shapes()
        self.student = self.settings_of("general_student").shape
        self.machine = Machine(self.config, configuration.precision)

    def settings_of(self, stage: str) -> Any:
        return self.configuration.quietly(stage, self.name)

    def teacher_shapes(self) -> list[Shape]:
        """Of each model that is a teacher; none if it is a file of predictions. A checkpoint on the hub, which a check
        does not download, counts as large as the encoder.
        """
        recipe = self.settings_of("finetune_teacher")
        if recipe.predictions:
            return []
        if recipe.checkpoints:
            return list(map(self.own_shape, recipe.checkpoints))
        folders = [locations.checkpoint_folder(encoder, own_teacher.ENCODER_KEY) for encoder in recipe.encoders]
        return (list(map(_shape, folders)) or [self.shape]) * len(recipe.seeds or [None])

    def own_shape(self, checkpoint: str) -> Shape:
        if checkpoint.startswith("hub:"):
            return self.shape
        within = locations.own_teacher_folder(self.name)
        return _shape(locations.checkpoint_folder(checkpoint, own_teacher.KEY, within))

    # Rows and their lengths

    @cached_property
    def train(self) -> Sequences:
        return self.sequences(self.parts["train"])

    @cached_property
    def validation(self) -> Sequences:
        return self.sequences(self.parts["validation"])

    @cached_property
    def test(self) -> Sequences:
        """With the further tests."""
        parts = [rows for part, rows in self.parts.items() if part not in ("train", "validation")]
        return self.sequences(list(chain.from_iterable(parts)))

    @cached_property
    def variants(self) -> int:
        recipe = word_replacement.with_variants(self.settings_of("augment"), len(self.parts["train"]))
        return cast(int, recipe.variants)

    @cached_property
    def transfer(self) -> Sequences:
        return self.train.times(1 + self.variants) + self.new_pairs + self.sequences(self.unlabelled)

    @cached_property
    def new_pairs(self) -> Sequences:
        train = self.parts["train"]
        number = self.settings_of("augment").new_pairs if self.task.is_pair(train[0]) else 0
        return self.train.times(number / len(train))

    def sequences(self, rows: list[Row]) -> Sequences:
        sample = _sample(rows)
        return Sequences.estimate([len(sequence) for sequence in self.ids(sample)], len(sample), len(rows))

    def ids(self, rows: list[Row]) -> list[list[int]]:
        if not rows:
            return []
        with without_counts():
            return encode(self.task, rows, self.tokenizer)["input_ids"]

    @cached_property
    def vocabulary_in_use(self) -> int:
        """About how many word pieces the rows have: the others' embeddings are not trained."""
        sample = chain(self.ids(_sample(self.parts["train"])), self.ids(_sample(self.unlabelled)))
        return MORE_PIECES * len(set(chain.from_iterable(sample)))

    # Seconds

    def seconds(
        self,
        mode: Mode,
        shape: Shape,
        sequences: Sequences,
        batches: float,
        layers: float | None = None,
        precision: str | None = None,
        dropout: float | None = None,
        vocabulary: int | None = None,
    ) -> float:
        """``layers``: as many as ``shape`` has, unless the last one is computed in part. ``precision``: by default that
        of training, or float32 in inference. ``vocabulary``: of training, by default `vocabulary_in_use`.
        """
        if not sequences.count:
            return 0.0
        precision = precision or ("float32" if mode != "train" else self.configuration.precision)
        vocabulary = vocabulary or self.vocabulary_in_use
        speed = self.machine.speed(shape, _rounded(sequences.mean), mode, precision, vocabulary, dropout)
        layers = shape.layers if layers is None else layers
        return speed.seconds(batches, layers, sequences.pieces, sequences.squared_lengths)

    def layers_of(self, shape: Shape) -> float:
        """The number of layers that are computed. If the head reads only the first position, the last layer counts in
        part: it computes only keys and values at all positions.
        """
        projections, feed_forward = 4 * shape.hidden**2, 2 * shape.hidden * shape.feed_forward
        share = 0.5 * projections / (projections + feed_forward)
        return shape.layers - (1 - share if self.task.uses_first_position_only else 0)

    def inference(self, shape: Shape, sequences: Sequences, precision: str = "float32", mode: Mode = "infer") -> float:
        return self.seconds(mode, shape, sequences, sequences.count / BATCH, self.layers_of(shape), precision)

    # Stages

    def costs(self) -> Iterator[Cost]:
        """In the order of the pipeline."""
        if not Path("models/pretrained/encoder").exists():
            yield self.encoder()
        if self.settings_of("general_student").start == "distillation":
            yield self.general_student()
        yield self.finetune_teacher()
        yield self.augment()
        yield self.distill_intermediate()
        yield self.distill_prediction()
        yield self.finetune("finetune_student", self.student)
        yield from self.after_training()

    def encoder(self) -> Cost:
        group = self.configuration.encoder.masked_language_model
        key = "encoder.masked_language_model.text"
        text = self.texts(group.text, group.max_length, self.configuration.encoder.seed, key)
        read = text.times(group.steps * group.batch_size / text.count)
        seconds = self.seconds("train", self.shape, read, group.steps, vocabulary=self.config.vocab_size)
        return Cost(
            "encoder",
            "once for all tasks; no training if the encoder has a masked language model's head",
            group.steps,
            START + seconds,
        )

    def general_student(self) -> Cost:
        recipe = self.settings_of("general_student").distillation
        key = "general_student.distillation.text"
        data = self.texts(recipe.text, recipe.max_length, self.configuration.seed, key)
        return self.intermediate("general_student", recipe, data.times(recipe.text.limit / data.count), "texts")

    def texts(self, text: Text, max_length: int, seed: int, key: str) -> Sequences:
        found = sources.texts(text.model_copy(update={"limit": min(SAMPLED, text.limit)}), seed, key)
        ids = self.tokenizer(found, truncation=True, max_length=max_length)["input_ids"]
        return Sequences.estimate([len(sequence) for sequence in ids], len(found), len(found))

    def training_cost(self, stage: str, shape: Shape, recipe: Schedule, data: Sequences, what: str) -> Cost:
        """A stage that trains with a head, once for each learning rate, and validates after each epoch."""
        fit = fitted(data.count, recipe.epochs, recipe.batch_size, recipe.accumulation, recipe.min_steps)
        trials = len(recipe.learning_rates)
        epochs, steps = fit.steps / fit.steps_per_epoch, trials * fit.steps
        read = data.times(epochs * trials * (4 / 3 if recipe.checkpointing else 1))
        training = self.seconds("train", shape, read, steps, self.layers_of(shape), dropout=recipe.dropout)
        validating = self.inference(shape, self.validation.times(fit.epochs * trials), mode="validate")
        text = f"{what}, {epochs_text(epochs)}" + (f", {trials} learning rates" if trials > 1 else "")
        return Cost(stage, text, steps, START + training + validating)

    def finetune_teacher(self) -> Cost:
        stage, recipe = "finetune_teacher", self.settings_of("finetune_teacher")
        if recipe.predictions:
            return Cost(stage, "a file of predictions", 0, START)
        if recipe.checkpoints:
            seconds = sum(self.inference(teacher, self.validation) for teacher in self.teachers)
            whose = "your own teacher" + ("s" if len(self.teachers) > 1 else "")
            return Cost(stage, whose, 0, START + seconds)
        first, *others = [self.finetune(stage, shape) for shape in self.teachers]
        if not others:
            return first
        return replace(
            first,
            what=f"{first.what}, {len(self.teachers)} teachers",
            steps=len(self.teachers) * first.steps,
            seconds=first.seconds + sum(cost.seconds - START for cost in others),
        )

    def finetune(self, stage: str, shape: Shape) -> Cost:
        """The cost of training on labels. A teacher's includes what it learns before, see `training.starts`."""
        recipe, train = self.settings_of(stage), self.parts["train"]
        rows = f"{self.train.count} rows"
        if stage == "finetune_student":
            return self.training_cost(stage, shape, recipe, self.train, rows)
        if similarity.wanted(self.task, train, recipe):
            steps, subject, texts = recipe.similarity_steps, "similarity", self.train
            size = similarity.batch_size(recipe)
        elif contrast.wanted(self.task, train, recipe):
            steps, subject = recipe.contrast_steps, "the contrast of classes"
            size = contrast.batch_size(self.train.count, recipe.batch_size)
            texts = self.train.cut(contrast.LONGEST)
        else:
            return self.training_cost(stage, shape, recipe, self.train, rows)
        read = texts.times(steps * size / texts.count)
        seconds = self.seconds("train", shape, read, steps, self.layers_of(shape), dropout=recipe.dropout)
        cost = self.training_cost(stage, shape, recipe, self.train, f"{steps} steps on {subject}, then {rows}")
        return replace(cost, steps=cost.steps + steps, seconds=cost.seconds + seconds)

    def augment(self) -> Cost:
        if not self.variants:
            return Cost("augment", "no variants", 0, START)
        forwards = self.forwards()
        hidden, wide = self.shape.hidden**2, self.shape.hidden * self.shape.feed_forward
        layers = self.shape.layers - 2 * wide / (4 * hidden + 2 * wide)  # the last one: of masked positions only
        seconds = self.seconds("infer", self.shape, forwards, forwards.count / BATCH, layers)
        what = f"{len(self.parts['train'])} rows, {self.variants} variants each, {forwards.count} forward passes"
        return Cost("augment", what, 0, START + AUGMENT_OVERHEAD * seconds)

    def forwards(self) -> Sequences:
        """Inputs of the masked language model: copies of each text in which some words are masked."""
        recipe = self.settings_of("augment")
        group = self.configuration.word_vectors
        stop_words = set(word_vectors.stop_words(group.stop_words, "word_vectors.stop_words"))
        longest = min(self.tokenizer.model_max_length - 2, self.task.pieces_read or math.inf)
        fields = (self.task.replaceable_spans(row).values() for row in self.parts["train"])
        texts = list(dict.fromkeys(text for texts_and_spans in fields for text, _ in texts_and_spans))
        sample, lengths = _sample(texts), []
        for text in sample:
            encoded = self.tokenizer(text, add_special_tokens=False, truncation=True, max_length=longest)
            spans = [encoded.token_to_chars(at) for at in range(len(encoded["input_ids"]))]
            words = [
                text[start:end]
                for start, end in filter(None, spans)
                if word_replacement.is_whole_word(text, start, end) and is_word(text[start:end])
            ]
            words = [word for word in words if word.lower() not in stop_words]
            copies = count_forwards(len(spans), len(words), recipe.masked_at_once)
            lengths += [len(spans) + 2] * copies
        return Sequences.estimate(lengths, len(sample), len(texts))

    def distill_intermediate(self) -> Cost:
        recipe = self.settings_of("distill_intermediate")
        if not self.teachers:
            return Cost("distill_intermediate", "skipped: a file of predictions", 0, START)
        data = self.transfer.at_most(recipe.max_rows) if recipe.epochs else Sequences()
        cost = self.intermediate("distill_intermediate", recipe, data, "rows", self.transfer)
        if len(self.teachers) == 1:
            return cost
        precision = self.configuration.precision
        further = sum(self.inference(shape, self.transfer, precision) for shape in self.teachers[1:])
        return replace(
            cost, what=f"{cost.what}; the logits of all rows of each further teacher", seconds=cost.seconds + further
        )

    def intermediate(
        self, stage: str, recipe: Any, data: Sequences, unit: str, transfer: Sequences | None = None
    ) -> Cost:
        """The teacher's forward and the student's step; then the teacher's logits of the rest of ``transfer``."""
        teacher = self.teachers[0] if stage == "distill_intermediate" else self.shape
        precision, steps, seconds, text = self.configuration.precision, 0, START, []
        if data.count:
            fit = fitted(data.count, recipe.epochs, recipe.batch_size, min_steps=recipe.min_steps)
            epochs, steps = fit.steps / fit.steps_per_epoch, fit.steps
            read = data.times(epochs)
            seconds += self.seconds("infer", teacher, read, steps, precision=precision)
            seconds += self.seconds("train", self.student, read, steps, dropout=recipe.dropout)
            text.append(f"{data.count} {unit}, {epochs_text(epochs)}")
        if transfer and (rest := transfer.count - data.count) > 0:
            seconds += self.inference(teacher, transfer.at_most(rest), precision)
            text.append(f"the teacher's logits of {rest} {'more ' if data.count else ''}rows")
        return Cost(stage, "; ".join(text), steps, seconds)

    def distill_prediction(self) -> Cost:
        recipe, data = self.settings_of("distill_prediction"), self.transfer
        if recipe.targets == "labels":
            data = self.train.times(1 + self.variants * recipe.augmented)
        elif self.known:  # hardly any variant or new pair is in a file of predictions
            rows = chain(self.parts["train"], self.unlabelled)
            data = self.sequences([row for row in rows if self.known.of(row) is not None])
        elif not recipe.augmented:
            data = self.train + self.sequences(self.unlabelled)
        return self.training_cost("distill_prediction", self.student, recipe, data, f"{data.count} rows")

    def after_training(self) -> Iterator[Cost]:
        of_teachers = sum(self.inference(shape, self.test) for shape in self.teachers)
        of_student, models = self.inference(self.student, self.test), len(self.teachers) + 2
        yield Cost("evaluate", f"{self.test.count} rows, {models} models", 0, START + of_teachers + 2 * of_student)
        yield Cost("export", "ONNX and int8", 0, START + EXPORT + 3 * of_student)
        yield self.benchmark()

    def benchmark(self) -> Cost:
        recipe, threads, seconds = self.settings_of("benchmark"), {1, torch.get_num_threads()}, START
        first, models = (self.teachers[0], 6) if self.teachers else (self.student, 3)
        for size, count in product({1, *recipe.batch_sizes}, threads):
            batch = self.test.times(size / self.test.count)
            on_all = LATENCY_FACTOR * self.inference(first, batch, mode="validate")
            of_a_round = on_all * max(threads) / count
            situation = latency.WARM_UP * of_a_round + max(recipe.seconds, latency.LEAST_RUNS * of_a_round)
            seconds += 2 * situation  # for a typical length, and for a long one
        what = f"latency of {models} models on {' and '.join(map(str, threads))} threads"
        return Cost("benchmark", what, 0, seconds)

    # What the user reads

    def log(self) -> None:
        costs = list(self.costs())
        log(f"estimated time on this machine ({self.machine}):")
        for cost in costs:
            steps = f"{cost.steps} steps: " if cost.steps else ""
            log(f"  {cost.stage}: {minutes(cost.seconds)}: {steps}{cost.what}")
        total = sum(cost.seconds for cost in costs)
        log(f"  all: {minutes(total)}")
        if total > LONG:
            longest = max((cost for cost in costs if cost.stage != "encoder"), key=lambda cost: cost.seconds)
            advice = "; ".join(self.advice(longest))
            log(f"LONG: more than an hour, most of it for {longest.stage}. To make it shorter: {advice}")

    def advice(self, longest: Cost) -> Iterator[str]:
        """What makes the longest stage shorter."""
        recipe = self.settings_of(longest.stage)
        if longest.stage == "general_student":
            yield f"a smaller general_student.distillation.text.limit ({recipe.distillation.text.limit})"
        else:
            yield from self.advice_on_rows(longest, recipe)
        if self.machine.device.type == "cpu":
            yield "a GPU"

    def advice_on_rows(self, longest: Cost, recipe: Any) -> Iterator[str]:
        """What makes a stage that reads the task's rows shorter."""
        rows = self.transfer if longest.stage.startswith("distill") else self.train
        if rows.mean > LONG_TEXT:
            yield f"a smaller max_length ({self.task.max_length}; a text has {rows.mean} word pieces on average)"
        if rows is self.transfer:
            variants = self.train.times(self.variants)
            if variants.pieces > LARGE_SHARE * self.transfer.pieces:
                yield f"fewer augment.variants ({self.variants} of each of {self.train.count} rows)"
            if len(self.unlabelled) > LARGE_SHARE * self.transfer.count:
                key = "unlabelled.limit" if self.configuration.task(self.name).unlabelled else "augment.general_texts"
                yield f"a smaller {key} ({len(self.unlabelled)} rows)"
            if self.new_pairs.count > LARGE_SHARE * self.transfer.count:
                yield f"a smaller augment.new_pairs ({self.new_pairs.count})"
        if longest.stage == "distill_intermediate":
            yield f"a smaller distill_intermediate.max_rows ({recipe.max_rows or 'all rows'})"
        elif longest.stage == "augment":
            yield f"more augment.masked_at_once ({recipe.masked_at_once})"
        if longest.steps and longest.steps == getattr(recipe, "min_steps", None):
            yield f"fewer {longest.stage}.min_steps ({recipe.min_steps})"
        elif getattr(recipe, "epochs", 1) > 1:
            yield f"fewer {longest.stage}.epochs ({recipe.epochs})"


def _config(folder: Path) -> Any:
    return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _shape(folder: Path) -> Shape:
    return checkpoints.shape_of(_config(folder))


def minutes(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _rounded(length: int) -> int:
    """The nearest power of two, so that similar lengths share a measurement."""
    return 1 << round(math.log2(max(length, 1)))


def _sample(rows: list) -> list:
    return rows[:: math.ceil(len(rows) / SAMPLED)] if rows else []
