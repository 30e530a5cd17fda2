"""Speed of distillation on a GPU: ``python benchmarks/gpu.py`` measures both stages and augmentation's candidates.

The teacher has BERT-base's size, the students are TinyBERT4 and TinyBERT6. Weights and texts are random; the lengths of
texts are those of SST-2 and SQuAD. Our training is measured at batch 32, and at a large batch if that is faster, as in
the middle of a long run: CUDA graphs are recorded, kernels are compiled. ``plain_recipe.py`` runs in turn with it, in
bfloat16 at batch 32, on rows of the same lengths. The column "of the limit" is the rate of floating-point operations,
without those on padding, relative to a large matrix product's.

Ends within 8 minutes; needs torch, transformers, accelerate and numpy only. ``--ours`` measures only our training.
``--tiny`` measures tiny models, on a CPU too (in float32 if it has no bfloat16).
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertTokenizer,
)

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import plain_recipe as plain
from comparison import (
    TRAINING,
    Side,
    forward_operations,
    in_turn,
    limit,
    machine,
    print_table,
    wait_for_the_device,
)

from pipeline.tinybert.augmentation.candidates import Candidates, Sentence, Word
from pipeline.tinybert.core.log import log
from pipeline.tinybert.distillation.intermediate import IntermediateObjective, LogitsRecorder, StudentWithProjections
from pipeline.tinybert.distillation.prediction import LogitsCollator, PredictionObjective
from pipeline.tinybert.distillation.teacher_logits import TeacherLogits
from pipeline.tinybert.models.attention import first_position_only, our_attention
from pipeline.tinybert.models.batches import MEGABATCH, ByLength, Collator
from pipeline.tinybert.models.encoded_rows import EncodedRows, EncodedRowsWriter
from pipeline.tinybert.models.precision import has_bfloat16, to_inference
from pipeline.tinybert.training.loop import Objective, Run, compute_deterministically
from pipeline.tinybert.training.plan import Plan

# Deciles of the lengths, in word pieces, of SST-2's sentences and of SQuAD's questions with passages, truncated at 384.
LENGTHS = {
    "SST-2": [3, 10, 13, 17, 19, 22, 25, 29, 33, 38, 66],
    "SQuAD": [41, 101, 122, 132, 144, 156, 171, 189, 216, 259, 384],
}
PADDED_LENGTH = {"SST-2": 128, "SQuAD": 384}  # in the plain recipe
Shape = SimpleNamespace
TEACHER = Shape(layers=12, hidden=768, heads=12, feed_forward=3072)
STUDENTS = {
    "TinyBERT4": Shape(layers=4, hidden=312, heads=12, feed_forward=1200),
    "TinyBERT6": Shape(layers=6, hidden=768, heads=12, feed_forward=3072),
}
TINY = Shape(layers=2, hidden=24, heads=2, feed_forward=48)
VOCABULARY, TINY_VOCABULARY = 30522, 500
BATCH, BATCHES = 32, {"SST-2": (1024,), "SQuAD": (128,)}
STEPS, TINY_STEPS = MEGABATCH, 2  # of our training: a megabatch has all lengths of a long run, the longest first
WARM_UP_RUNS = 2  # then each shape of a batch has come twice and its CUDA graph is recorded
STEPS_OF_A_LONG_RUN = 10_000
SHARE_OF_WORDS = 0.5  # of a text, for which candidates are computed
CLASSES = 2
FEW_SENTENCES = 8  # for the plain recipe, which needs a large part of a second for one
SEED = 1
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PRECISION = torch.bfloat16 if has_bfloat16(DEVICE) else torch.float32


def random_texts(lengths: np.ndarray, vocabulary: int) -> list[list[int]]:
    """Random word pieces."""
    draw = np.random.default_rng(SEED)
    return [draw.integers(5, vocabulary, length).tolist() for length in lengths]


@cache
def encoded_rows(name: str, count: int, vocabulary: int) -> EncodedRows:
    """``count`` random rows on disk with the lengths of a dataset."""
    writer = EncodedRowsWriter(tempfile.mkdtemp(dir="."))
    writer.add({"input_ids": random_texts(lengths_of(name, count), vocabulary)})
    return writer.finished()


class Task:
    """What training needs of a task."""

    metric, loss, num_classes = "accuracy", "soft_cross_entropy", CLASSES

    def class_logits(self, outputs) -> torch.Tensor:
        return outputs.logits.unsqueeze(1)

    def count_distributions(self, mask: torch.Tensor) -> torch.Tensor:
        return mask.sum()


def classifier(shape: Shape, vocabulary: int) -> nn.Module:
    torch.manual_seed(SEED)
    with DEVICE:
        return BertForSequenceClassification(config(shape, vocabulary))


def config(shape: Shape, vocabulary: int) -> BertConfig:
    return BertConfig(
        vocab_size=vocabulary,
        num_hidden_layers=shape.layers,
        hidden_size=shape.hidden,
        num_attention_heads=shape.heads,
        intermediate_size=shape.feed_forward,
        num_labels=CLASSES,
    )


def lengths_of(name: str, count: int) -> np.ndarray:
    deciles = LENGTHS[name]
    return np.interp(np.random.default_rng(SEED).random(count), np.linspace(0, 1, len(deciles)), deciles).astype(int)


def plain_autocast() -> torch.autocast:
    return torch.autocast(DEVICE.type, PRECISION, enabled=torch.bfloat16 == PRECISION, cache_enabled=False)


def name_of(precision: torch.dtype) -> str:
    return str(precision).removeprefix("torch.")


class Stage:
    """A stage of distillation with a student, on texts with the lengths of a dataset. ``ours`` and ``plain`` measure
    one run each, in seconds a row.
    """

    name: str
    schedule = "linear"

    def __init__(self, student: Shape, teacher: Shape, vocabulary: int, lengths: str):
        self.shapes, self.vocabulary, self.lengths = (student, teacher), vocabulary, lengths
        self.runs: dict[int, Run] = {}
        self.student, self.teacher = (classifier(shape, vocabulary) for shape in (student, teacher))
        self.teacher.eval()
        ours = to_inference(classifier(teacher, vocabulary), name_of(PRECISION), DEVICE)
        self.our_teacher = our_attention(ours)
        self.layer_map = [layer * teacher.layers // student.layers for layer in range(1, student.layers + 1)]
        self.tokenizer = SimpleNamespace(model_max_length=512, pad_token_id=0, pad_token_type_id=0)

    def make_rows(self, few: int, largest_batch: int, steps: int) -> None:
        """A few rows for the plain recipe, and enough for ours: batches of the largest size are sorted by length within
        a whole megabatch, as in a long run.
        """
        count = max(few, 4 * steps * largest_batch)
        self.few, self.steps, self.folder = few, steps, Path(tempfile.mkdtemp(dir="."))
        self.rows = encoded_rows(self.lengths, count, self.vocabulary)
        self.logits = TeacherLogits.create(self.folder, np.ones(count, dtype=np.int64), CLASSES)
        self.logits.values[0:count] = np.random.default_rng(SEED).normal(size=(count, CLASSES))

    def lengths_in_a_run(self, batch_size: int) -> np.ndarray:
        """Lengths of the rows of one run of ours."""
        order = ByLength(self.rows.lengths, batch_size, SEED)
        return self.rows.lengths[list(islice(order, self.steps * batch_size))]

    def ours(self, batch_size: int) -> float:
        """Seconds a row, after warm-up."""
        if batch_size not in self.runs:
            self.runs[batch_size] = self.start(batch_size)
            warm_up = [timed(partial(self.train, batch_size)) for _ in range(WARM_UP_RUNS)]
            log(f"{self.name}, batch {batch_size}, warm-up: {', '.join(f'{seconds:.1f} s' for seconds in warm_up)}")
        return timed(partial(self.train, batch_size)) / len(self.lengths_in_a_run(batch_size))

    def train(self, batch_size: int) -> None:
        """The first ``steps`` steps of an epoch, the same ones each time."""
        run = self.runs[batch_size]
        compute_deterministically()
        our_attention(self.student)  # `plain` has changed both
        run.model.train()
        run.progress.batches = 0
        with self.last_layer():
            for batches in islice(run.optimizer_steps(), self.steps):
                run.one_step(batches)
        run.look_at_losses()
        run.objective.before_checkpoint()

    def start(self, batch_size: int, **changes) -> Run:
        """A training run, before its first step. ``changes`` are those of its `Plan`."""
        plan = Plan(
            stage=self.name,
            seed=SEED,
            precision=name_of(PRECISION),
            batch_size=batch_size,
            learning_rate=1e-4,
            epochs=1,
            steps=STEPS_OF_A_LONG_RUN,
            schedule=self.schedule,
        )
        return Run(*self.parts(), replace(plan, **changes), self.folder)

    def parts(self) -> tuple[Objective, nn.Module, EncodedRows, Collator]:
        """Objective, model, rows and collator of a run."""
        raise NotImplementedError

    def keep_runs(self, batch_sizes: set[int]) -> None:
        """Free the memory of the other batch sizes' runs."""
        self.runs = {size: run for size, run in self.runs.items() if size in batch_sizes}
        free_memory()

    def last_layer(self) -> AbstractContextManager:
        """What the last layer computes."""
        return nullcontext()

    def plain(self) -> float:
        """Seconds a row, in an epoch over a few rows."""
        torch.use_deterministic_algorithms(False)  # our training has turned it on
        batch = self.rows.batch(np.arange(self.few))
        columns = {name: batch[name].padded(self.padded_length, 0).tolist() for name in ("input_ids", "attention_mask")}
        rows = plain.Rows(columns, self.tokenizer, self.padded_length)
        with plain_autocast():
            return timed(partial(self.plain_epoch, rows)) / self.few

    @property
    def padded_length(self) -> int:
        return PADDED_LENGTH[self.lengths]

    def plain_epoch(self, rows: plain.Rows) -> None:
        raise NotImplementedError

    def operations(self, lengths: np.ndarray) -> float:
        """Floating-point operations of our training on rows of these lengths, without padding."""
        raise NotImplementedError


class Intermediate(Stage):
    name, schedule = "distill_intermediate", "constant"

    def parts(self) -> tuple[Objective, nn.Module, EncodedRows, Collator]:
        weights = SimpleNamespace(embeddings=1, hidden=1, attention=1, relations=0)
        recorder = LogitsRecorder(Task(), self.logits)
        objective = IntermediateObjective(self.our_teacher, self.layer_map, weights, recorder)
        student = StudentWithProjections(our_attention(self.student.base_model), self.shapes[1].hidden, "shared")
        return objective, student, self.rows, Collator(self.tokenizer, "number", "label_mask")

    def plain_epoch(self, rows: plain.Rows) -> None:
        plain.learn_states(self.student.base_model, self.teacher.base_model, rows, self.layer_map, 1, BATCH, 1e-4)

    def operations(self, lengths: np.ndarray) -> float:
        student, teacher = (forward_operations(shape, lengths.tolist()) for shape in self.shapes)
        own, theirs = self.shapes
        projections = 2.0 * int(lengths.sum()) * (own.layers + 1) * own.hidden * theirs.hidden
        return teacher + TRAINING * (student + projections)


class Prediction(Stage):
    name = "distill_prediction"

    def parts(self) -> tuple[Objective, nn.Module, EncodedRows, Collator]:
        return PredictionObjective(Task(), 1.0), self.student, self.rows, LogitsCollator(self.tokenizer, self.logits)

    def plain_epoch(self, rows: plain.Rows) -> None:
        evaluate = lambda model: None  # noqa: E731 every 100 steps: not in an epoch this short
        plain.learn_logits(self.student, self.teacher, rows, plain.of_classes, evaluate, 1, BATCH, 1e-4, 0.1)

    @property
    def first_position(self) -> bool:
        """For question answering, the head reads all positions."""
        return self.lengths == "SST-2"

    def last_layer(self) -> AbstractContextManager:
        return first_position_only(self.student) if self.first_position else nullcontext()

    def operations(self, lengths: np.ndarray) -> float:
        return TRAINING * forward_operations(self.shapes[0], lengths.tolist(), self.first_position)


class Augmentation:
    """The masked language model's candidates for half of the words of texts, in seconds a text."""

    def __init__(self, shape: Shape, vocabulary: int, masked_at_once: int, batch_size: int):
        torch.manual_seed(SEED)
        self.shape = shape
        self.model = BertForMaskedLM(config(shape, vocabulary)).to(DEVICE).eval()
        pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(word, range(vocabulary - 5))]
        self.tokenizer = BertTokenizer(
            vocab={piece: number for number, piece in enumerate(pieces)}, model_max_length=512
        )
        self.settings = SimpleNamespace(masked_at_once=masked_at_once, batch_size=batch_size, candidates=15)

    def make_rows(self, few: int, largest_batch: int, steps: int) -> None:
        """A few texts for the plain recipe, and more for ours."""
        draw, self.few, count = random.Random(SEED), few, max(few, steps * largest_batch)
        texts = random_texts(lengths_of("SST-2", count), len(self.tokenizer))
        self.sentences = [self.sentence(ids, draw) for ids in texts]

    def sentence(self, ids: list[int], draw: random.Random) -> Sentence:
        pieces = self.tokenizer.convert_ids_to_tokens(ids)
        chosen = sorted(draw.sample(range(len(ids)), round(SHARE_OF_WORDS * len(ids))))
        return Sentence("", ids, [Word(0, 0, pieces[at], at, [ids[at]]) for at in chosen])

    def ours(self) -> float:
        candidates = Candidates(self.model, self.tokenizer, SimpleNamespace(key_to_index={}), self.settings)
        return timed(partial(candidates.find, self.sentences)) / len(self.sentences)

    def plain(self) -> float:
        return timed(self.plain_candidates) / self.few

    def plain_candidates(self) -> None:
        """One masked word at a time."""
        augmenter = SimpleNamespace(model=self.model, tokenizer=self.tokenizer, candidates=self.settings.candidates)
        with plain_autocast():
            for sentence in self.sentences[: self.few]:
                pieces = self.tokenizer.convert_ids_to_tokens(sentence.pieces)
                for masked in sentence.words:
                    plain.Augmenter.predicted(augmenter, pieces, masked.piece)


def word(number: int) -> str:
    """A word of four letters for each number."""
    return "".join(chr(ord("a") + number // 26**place % 26) for place in range(4))


def free_memory() -> None:
    """Free the memory of deleted runs, which refer to themselves."""
    gc.collect()
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    wait_for_the_device()
    start = time.perf_counter()
    work()
    wait_for_the_device()
    return time.perf_counter() - start


def fastest_batch(stage: Stage, batches: tuple[int, ...]) -> int:
    """The fastest batch size, 32 or one of ``batches`` that fits in memory."""
    seconds = {BATCH: stage.ours(BATCH)}
    for batch_size in batches:
        try:
            seconds[batch_size] = stage.ours(batch_size)
        except torch.OutOfMemoryError:
            break
        stage.keep_runs({BATCH, min(seconds, key=seconds.get)})
    return min(seconds, key=seconds.get)


def make_enough_rows(work: Stage | Augmentation, options, few: int, largest_batch: int) -> None:
    """As many rows as the plain recipe needs to run for about ``--seconds``, and those for ours."""
    if options.tiny or options.ours:
        work.make_rows(few, largest_batch, TINY_STEPS if options.tiny else STEPS)
        return
    work.make_rows(few, 1, 1)
    work.plain()  # warms up
    few = max(few, round(options.seconds / work.plain() / BATCH) * BATCH)
    work.make_rows(few, largest_batch, STEPS)


def recorded(side: Callable[[], float], seconds: list[float]) -> Callable[[], None]:
    return lambda: seconds.append(side())


def compared(sides: dict[str, Callable[[], float]], rounds: int, title: str) -> dict[str, float]:
    """Rows per second of each side: the median of the rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    in_turn({name: Side(recorded(side, seconds[name])) for name, side in sides.items()}, rounds, title)
    return {name: 1 / float(np.median(seconds[name])) for name in sides}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.5, help="approximate time of each run of the plain recipe")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lengths", nargs="+", choices=LENGTHS, default=[*LENGTHS], help="of the texts of these")
    parser.add_argument("--ours", action="store_true", help="only our training: not the plain recipe, no augmentation")
    parser.add_argument("--tiny", action="store_true", help="tiny models and few rows")
    options = parser.parse_args()
    students, teacher, vocabulary, batches, few = STUDENTS, TEACHER, VOCABULARY, BATCHES, 4 * BATCH
    if options.tiny:
        students, teacher, vocabulary, few = {"tiny": TINY}, TINY, TINY_VOCABULARY, 8
        batches = {"SST-2": (64,), "SQuAD": ()}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        ceiling = limit(PRECISION, DEVICE)
        table = []
        for kind in (Intermediate, Prediction):
            for lengths in options.lengths:
                for name, student in students.items():
                    stage = kind(student, teacher, vocabulary, lengths)
                    rows = rows_of(stage, name, options, batches[lengths], few, ceiling)
                    log("\n".join(map(" | ".join, rows)))
                    table += rows
        if not options.ours:
            table.append(row_of_augmentation(Augmentation(teacher, vocabulary, 3, 64), options))
        os.chdir(ROOT)
    log(f"\n{machine()}, {torch.cuda.get_device_name() if DEVICE.type == 'cuda' else 'no GPU'}")
    log(f"a large matrix product in {name_of(PRECISION)}: {ceiling / 1e12:.1f} TFLOP/s")
    compared_with = [] if options.ours else ["plain", "ratio"]
    print_table(["stage", "rows of", "batch", "rows per second", *compared_with, "of the limit"], table)


def rows_of(stage: Stage, student: str, options, batches: tuple[int, ...], few: int, ceiling: float) -> list[list[str]]:
    make_enough_rows(stage, options, few, max((BATCH, *batches)))
    best = fastest_batch(stage, batches)
    stage.keep_runs({BATCH, best})
    sides = {str(size): partial(stage.ours, size) for size in sorted({BATCH, best})}
    if not options.ours:
        sides = {"plain": stage.plain, **sides}
    title = f"{stage.name}, {student}"
    speed = compared(sides, options.rounds, f"{title}, {stage.lengths}")
    return [
        [
            title,
            stage.lengths,
            size,
            f"{speed[size]:.0f}",
            *([] if options.ours else [f"{speed['plain']:.0f}", f"{speed[size] / speed['plain']:.1f}"]),
            f"{100 * speed[size] * stage.operations(lengths) / len(lengths) / ceiling:.0f} %",
        ]
        for size, lengths in ((size, stage.lengths_in_a_run(int(size))) for size in sides if size != "plain")
    ]


def row_of_augmentation(augmentation: Augmentation, options) -> list[str]:
    make_enough_rows(augmentation, options, FEW_SENTENCES, BATCH)
    augmentation.ours()  # warms up
    sides = {"plain": augmentation.plain, "ours": augmentation.ours}
    speed = compared(sides, options.rounds, "augment")
    ratio = f"{speed['ours'] / speed['plain']:.1f}"
    return ["augment, candidates", "SST-2", "64", f"{speed['ours']:.0f}", f"{speed['plain']:.0f}", ratio, ""]


if __name__ == "__main__":
    main()
