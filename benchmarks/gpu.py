"""How fast a GPU distils: ``python benchmarks/gpu.py`` measures both stages and the words that `augment` looks for.

A teacher of BERT-base's size, the students TinyBERT4 and TinyBERT6, weights and texts drawn at random, with the lengths
of SST-2 and SQuAD: training here, at batch 32 and at a large one where that is faster, as it goes in the midst of a
long run (the shapes of batches recorded, kernels compiled), and by ``plain_recipe.py`` in bfloat16 at batch 32, in
turn, on rows of the same lengths. Useful operations (padding not counted) are told as a share of what a large matrix
product reaches. Made to end within 8 minutes; needs torch, transformers, accelerate, datasets, numpy and pandas alone.

``--tiny`` measures tiny models, on whatever there is: a CPU will do, in float32 where it has no bfloat16.
"""

import argparse
import gc
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
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
    TrainerCallback,
)

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import plain_recipe as plain  # noqa: E402
from comparison import (  # noqa: E402
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
from pipeline.tinybert.distillation import stages
from pipeline.tinybert.distillation.teacher_logits import Logits
from pipeline.tinybert.models.attention import first_position_only, our_attention
from pipeline.tinybert.models.batches import MEGABATCH, ByLength, Collator
from pipeline.tinybert.models.precision import has_bfloat16
from pipeline.tinybert.models.sequences import Sequences, SequencesWriter
from pipeline.tinybert.training.loop import arguments, compute_the_same_each_time

# Deciles of the word-pieces of a row: sentences of SST-2; questions of SQuAD 1.1 with their passages, cut at 384.
LENGTHS = {
    "SST-2": [3, 10, 13, 17, 19, 22, 25, 29, 33, 38, 66],
    "SQuAD": [41, 101, 122, 132, 144, 156, 171, 189, 216, 259, 384],
}
PADDED = {"SST-2": 128, "SQuAD": 384}  # by the plain recipe
Shape = SimpleNamespace
TEACHER = Shape(layers=12, hidden=768, heads=12, feed_forward=3072)
STUDENTS = {
    "TinyBERT4": Shape(layers=4, hidden=312, heads=12, feed_forward=1200),
    "TinyBERT6": Shape(layers=6, hidden=768, heads=12, feed_forward=3072),
}
TINY = Shape(layers=2, hidden=24, heads=12, feed_forward=48)
VOCABULARY, TINY_VOCABULARY = 30522, 500
BATCH, BATCHES = 32, {"SST-2": (1024,), "SQuAD": (128,)}
STEPS, TINY_STEPS = MEGABATCH, 2  # of ours: so many have all the lengths of a long run, from the longest down
WARMING = 2  # times, after which each shape of a batch has come twice
MANY_STEPS = 10_000  # of a long run, which reads its losses a hundred times
WORDS_TO_REPLACE = 0.5  # of a text's
CLASSES = 2
FEW_SENTENCES = 8  # for the plain recipe, which augments one a good part of a second
SEED = 1
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PRECISION = torch.bfloat16 if has_bfloat16(DEVICE) else torch.float32


def drawn(lengths: np.ndarray, vocabulary: int) -> list[list[int]]:
    """Word-pieces of sequences, at random."""
    draw = np.random.default_rng(SEED)
    return [draw.integers(5, vocabulary, length).tolist() for length in lengths]


@cache
def sequences(name: str, count: int, vocabulary: int) -> Sequences:
    """So many of these lengths, as the stages have them."""
    writer, lengths = SequencesWriter(tempfile.mkdtemp(dir=".")), lengths_of(name, count)
    writer.add({"input_ids": drawn(lengths, vocabulary), "kept": [[True]] * len(lengths)})
    return writer.finished()


class Task:
    """As much of a task as training asks for."""

    metric, loss, classes = "accuracy", "soft_cross_entropy", CLASSES

    def class_logits(self, outputs) -> torch.Tensor:
        return outputs.logits.unsqueeze(1)

    def compared(self, kept: torch.Tensor) -> torch.Tensor:
        return kept.sum()


class Clock(TrainerCallback):
    """The seconds since the first step."""

    def on_train_begin(self, args, state, control, **rest):
        wait_for_the_device()
        self.start = time.perf_counter()

    def seconds(self) -> float:
        wait_for_the_device()
        return time.perf_counter() - self.start


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


def as_released() -> torch.autocast:
    return torch.autocast(DEVICE.type, PRECISION, enabled=torch.bfloat16 == PRECISION, cache_enabled=False)


def name_of(precision: torch.dtype) -> str:
    return str(precision).removeprefix("torch.")


class Stage:
    """A stage of distillation with a student, on texts of such lengths: ours, at any batch, and the plain one."""

    def __init__(self, student: Shape, teacher: Shape, vocabulary: int, lengths: str):
        self.shapes, self.vocabulary, self.padded_to = (student, teacher), vocabulary, PADDED[lengths]
        self.lengths, self.rows, self.trainers = lengths, None, {}
        self.student, self.teacher, self.our_teacher = (
            classifier(shape, vocabulary) for shape in (student, teacher, teacher)
        )
        self.teacher.eval()
        self.layer_map = [layer * teacher.layers // student.layers for layer in range(1, student.layers + 1)]
        self.tokenizer = SimpleNamespace(model_max_length=512, pad_token_id=0, pad_token_type_id=0)

    def take(self, few: int, largest_batch: int, steps: int) -> None:
        """Rows from now on: a few, of which the plain recipe learns, and for ours so many that even the largest batches
        are put together as in a long run.
        """
        count = max(few, 4 * steps * largest_batch)
        self.few, self.steps, self.folder = few, steps, Path(tempfile.mkdtemp(dir="."))
        self.rows = sequences(self.lengths, count, self.vocabulary)
        self.logits = Logits.unknown(self.folder, np.ones(count, dtype=np.int64), CLASSES)
        self.logits.values.write(0, np.random.default_rng(SEED).normal(size=(count, CLASSES)).astype(np.float32))

    def learned(self, batch_size: int) -> np.ndarray:
        """The lengths of the rows that ours learns at this batch."""
        order = ByLength(self.rows.lengths, batch_size, SEED)
        return self.rows.lengths[list(islice(order, self.steps * batch_size))]

    def ours(self, batch_size: int) -> float:
        """Seconds a row, in the midst of a long run."""
        if batch_size not in self.trainers:
            self.trainers[batch_size] = self.trainer(batch_size)
            warming = [self.run(batch_size) for _ in range(WARMING)]
            log(f"{self.name}, batch {batch_size}, first: {', '.join(f'{seconds:.1f} s' for seconds in warming)}")
        return self.run(batch_size) / len(self.learned(batch_size))

    def run(self, batch_size: int) -> float:
        """Seconds, once the batches come."""
        compute_the_same_each_time()
        our_attention(self.student)
        trainer, clock = self.trainers[batch_size], Clock()
        trainer.add_callback(clock)
        with self.reading():
            trainer.train()
        if getattr(trainer, "keep", None):
            trainer.keep.take()
        trainer.remove_callback(clock)
        return clock.seconds()

    def leave_only(self, batch_sizes: set[int]) -> None:
        """Of what training at a batch keeps on the device."""
        self.trainers = {size: trainer for size, trainer in self.trainers.items() if size in batch_sizes}
        free_memory()

    def reading(self) -> AbstractContextManager:
        return nullcontext()

    def plain(self) -> float:
        """Seconds a row, by an epoch over a few."""
        torch.use_deterministic_algorithms(False)  # as a trainer of ours has left it
        names = ("input_ids", "attention_mask")
        columns = {name: [self.rows[number][name] for number in range(self.few)] for name in names}
        padded = plain.Rows(columns, self.tokenizer, self.padded_to)
        with as_released():
            return timed(partial(self.plain_epoch, padded)) / self.few

    def arguments(self, batch_size: int, **options):
        return arguments(
            Path(self.folder, "run"),
            seed=SEED,
            precision=name_of(PRECISION),
            steps=MANY_STEPS,
            batch_size=batch_size,
            learning_rate=1e-4,
            max_steps=self.steps,
            **options,
        )


class Intermediate(Stage):
    name = "distill_intermediate"

    def trainer(self, batch_size: int):
        return stages.IntermediateTrainer(
            teacher=self.our_teacher,
            layer_map=self.layer_map,
            weights=SimpleNamespace(embeddings=1, hidden=1, attention=1),
            keep=stages.KeepLogits(Task(), self.logits),
            model=stages.Imitation(stages.our_attention(self.student.base_model), self.shapes[1].hidden, "shared"),
            args=self.arguments(batch_size, lr_scheduler_type="constant", ddp_find_unused_parameters=True),
            train_dataset=self.rows,
            data_collator=Collator(self.tokenizer, "number", "kept"),
        )

    def plain_epoch(self, padded: plain.Rows) -> None:
        plain.learn_states(self.student.base_model, self.teacher.base_model, padded, self.layer_map, 1, BATCH, 1e-4)

    def operations(self, lengths: np.ndarray) -> float:
        student, teacher = (forward_operations(shape, lengths.tolist()) for shape in self.shapes)
        own, theirs = self.shapes
        projections = 2.0 * int(lengths.sum()) * (own.layers + 1) * own.hidden * theirs.hidden
        return teacher + TRAINING * (student + projections)


class Prediction(Stage):
    name = "distill_prediction"

    def trainer(self, batch_size: int):
        return stages.PredictionTrainer(
            temperature=1.0,
            task=Task(),
            model=self.student,
            args=self.arguments(batch_size),
            train_dataset=self.rows,
            data_collator=stages.LogitsCollator(self.tokenizer, self.logits),
        )

    def plain_epoch(self, padded: plain.Rows) -> None:
        evaluate = lambda model: None  # noqa: E731 falls outside a run so short
        plain.learn_logits(self.student, self.teacher, padded, plain.of_classes, evaluate, 1, BATCH, 1e-4, 0.1)

    @property
    def first_position(self) -> bool:
        """Of a question all positions are read."""
        return self.lengths == "SST-2"

    def reading(self) -> AbstractContextManager:
        return first_position_only(self.student) if self.first_position else nullcontext()

    def operations(self, lengths: np.ndarray) -> float:
        return TRAINING * forward_operations(self.shapes[0], lengths.tolist(), self.first_position)


class Augmentation:
    """What a masked language model proposes for half of the words of texts: as `augment` asks it, or word by word."""

    def __init__(self, shape: Shape, vocabulary: int, masked_at_once: int, batch_size: int):
        torch.manual_seed(SEED)
        self.shape = shape
        self.model = BertForMaskedLM(config(shape, vocabulary)).to(DEVICE).eval()
        pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(letters, range(vocabulary - 5))]
        vocabulary = {piece: number for number, piece in enumerate(pieces)}
        self.tokenizer = BertTokenizer(vocab=vocabulary, model_max_length=512)
        self.settings = SimpleNamespace(masked_at_once=masked_at_once, batch_size=batch_size, candidates=15)

    def take(self, few: int, largest_batch: int, steps: int) -> None:
        draw, self.few, count = random.Random(SEED), few, max(few, steps * largest_batch)
        self.sentences = [self.sentence(ids, draw) for ids in drawn(lengths_of("SST-2", count), len(self.tokenizer))]

    def sentence(self, ids: list[int], draw: random.Random) -> Sentence:
        pieces = self.tokenizer.convert_ids_to_tokens(ids)
        chosen = sorted(draw.sample(range(len(ids)), round(WORDS_TO_REPLACE * len(ids))))
        return Sentence("", ids, [Word(0, 0, pieces[at], at, [ids[at]]) for at in chosen])

    def ours(self) -> float:
        candidates = Candidates(self.model, self.tokenizer, SimpleNamespace(key_to_index={}), self.settings)
        return timed(partial(candidates.find, self.sentences)) / len(self.sentences)

    def plain(self) -> float:
        augmenter = SimpleNamespace(model=self.model, tokenizer=self.tokenizer, candidates=self.settings.candidates)

        def one_by_one() -> None:
            with as_released():
                for sentence in self.sentences[: self.few]:
                    pieces = self.tokenizer.convert_ids_to_tokens(sentence.pieces)
                    for word in sentence.words:
                        plain.Augmenter.predicted(augmenter, pieces, word.piece)

        return timed(one_by_one) / self.few


def letters(number: int) -> str:
    """A word of four letters for each number."""
    return "".join(chr(ord("a") + number // 26**place % 26) for place in range(4))


def free_memory() -> None:
    """Of trainers that have done their work: they refer to themselves, and would stay for a while."""
    gc.collect()
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()


def timed(work: Callable[[], object]) -> float:
    wait_for_the_device()
    start = time.perf_counter()
    work()
    wait_for_the_device()
    return time.perf_counter() - start


def fastest_batch(stage: Stage, batches: tuple[int, ...]) -> int:
    """Of those that the memory holds."""
    seconds = {BATCH: stage.ours(BATCH)}
    for batch_size in batches:
        try:
            seconds[batch_size] = stage.ours(batch_size)
        except torch.OutOfMemoryError:
            break
        stage.leave_only({BATCH, min(seconds, key=seconds.get)})
    return min(seconds, key=seconds.get)


def take_enough(work, options, few: int, largest_batch: int) -> None:
    """Rows that the plain recipe learns in about the wanted seconds, and those for ours."""
    if options.tiny:
        work.take(few, largest_batch, TINY_STEPS)
        return
    work.take(few, 1, 1)
    work.plain()  # warms up
    few = max(few, round(options.seconds / work.plain() / BATCH) * BATCH)
    work.take(few, largest_batch, STEPS)


def noting(side: Callable[[], float], noted: list[float]) -> Callable[[], None]:
    return lambda: noted.append(side())


def compared(sides: dict[str, Callable[[], float]], rounds: int, what: str) -> dict[str, float]:
    """Rows a second of each side, by the median of the rounds."""
    noted = {name: [] for name in sides}
    in_turn({name: Side(noting(side, noted[name])) for name, side in sides.items()}, rounds, what)
    return {name: 1 / float(np.median(seconds)) for name, seconds in noted.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.5, help="of a measurement of the plain recipe, about")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="tiny models and few rows")
    options = parser.parse_args()
    students, teacher, vocabulary, batches, few = STUDENTS, TEACHER, VOCABULARY, BATCHES, 4 * BATCH
    if options.tiny:
        students, teacher, vocabulary, few = {"tiny": TINY}, TINY, TINY_VOCABULARY, 8
        batches = dict.fromkeys(BATCHES, (64,))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        ceiling = limit(PRECISION, DEVICE)
        table = []
        for kind in (Intermediate, Prediction):
            for lengths in LENGTHS:
                for name, student in students.items():
                    stage = kind(student, teacher, vocabulary, lengths)
                    rows = rows_of(stage, name, options, batches[lengths], few, ceiling)
                    log("\n".join(map(" | ".join, rows)))
                    table += rows
        table.append(row_of_augmentation(Augmentation(teacher, vocabulary, 3, 64), options))
        os.chdir(ROOT)
    log(f"\n{machine()}, {torch.cuda.get_device_name() if DEVICE.type == 'cuda' else 'no GPU'}")
    log(f"a large matrix product in {name_of(PRECISION)}: {ceiling / 1e12:.1f} TFLOP/s")
    print_table(["what", "rows of", "batch", "rows a second", "plain", "ratio", "of the limit"], table)


def rows_of(stage: Stage, student: str, options, batches: tuple[int, ...], few: int, ceiling: float) -> list[list[str]]:
    take_enough(stage, options, few, max(batches))
    best = fastest_batch(stage, batches)
    stage.leave_only({BATCH, best})
    sides = {"plain": stage.plain, **{str(size): partial(stage.ours, size) for size in sorted({BATCH, best})}}
    what = f"{stage.name}, {student}"
    speed = compared(sides, options.rounds, f"{what}, {stage.lengths}")
    return [
        [
            what,
            stage.lengths,
            size,
            f"{speed[size]:.0f}",
            f"{speed['plain']:.0f}",
            f"{speed[size] / speed['plain']:.1f}",
            f"{100 * speed[size] * stage.operations(lengths) / len(lengths) / ceiling:.0f} %",
        ]
        for size, lengths in ((size, stage.learned(int(size))) for size in sides if size != "plain")
    ]


def row_of_augmentation(augmentation: Augmentation, options) -> list[str]:
    take_enough(augmentation, options, FEW_SENTENCES, BATCH)
    augmentation.ours()  # warms up
    sides = {"plain": augmentation.plain, "ours": augmentation.ours}
    speed = compared(sides, options.rounds, "augment")
    ratio = f"{speed['ours'] / speed['plain']:.1f}"
    return ["augment, candidates", "SST-2", "64", f"{speed['ours']:.0f}", f"{speed['plain']:.0f}", ratio, ""]


if __name__ == "__main__":
    main()
