"""Speed of distillation compared with the released recipe: ``python benchmarks/recipe.py`` prints a table.

Both implementations do the same work on the same rows with the same models, on the CPU, in turn, for several rounds.
They augment some training rows, learn the teacher's states of the augmented rows for one epoch, then its logits for
three. The released recipe is ``plain_recipe.py``, in float32; this pipeline uses the precision of params.yaml. Both use
the dropout of params.yaml. Models and rows are those of a finished `dvc repro`.

This pipeline evaluates as large a share of the rows as in a full run. The released recipe evaluates every 100 steps, so
it does not evaluate in a run this short, which favours it. It runs in its own process with default memory settings;
with ``--same-memory`` it gets this project's: huge pages, and freed memory is kept. OpenMP is set as in a stage.

Times are medians. The limit is a large float32 matrix product's rate of operations; padding does not count as work.

``--quick`` ends in minutes. ``--stages`` chooses stages. ``--within FOLDER`` measures a task of another working copy.
With one of ``kinds.py``: ``python benchmarks/recipe.py squad --within .dvc/tmp/kinds/squad --stages
distill_intermediate distill_prediction --rows 256``.
"""

import argparse
import contextlib
import multiprocessing
import os
import random
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import pipeline  # noqa: F401 before torch: it sets how OpenMP's threads wait

os.environ |= {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}  # the plain recipe runs on the CPU only

import plain_recipe as plain
import torch
from comparison import TRAINING, Side, forward_operations, in_turn, limit, machine, print_table
from transformers import AutoModelForMaskedLM

from pipeline.tinybert import tasks
from pipeline.tinybert.augmentation.word_replacement import Augmenter
from pipeline.tinybert.core import settings, stage
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.data import rows, word_vectors
from pipeline.tinybert.distillation import transfer_set
from pipeline.tinybert.distillation.intermediate import LogitsRecorder, learn_intermediate
from pipeline.tinybert.distillation.layer_map import map_layers
from pipeline.tinybert.distillation.prediction import learn_logits
from pipeline.tinybert.distillation.teacher_logits import TeacherLogits
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.models.encoded_rows import EncodedRows
from pipeline.tinybert.models.inference import EvaluationSet
from pipeline.tinybert.models.precision import autocast

STAGES = ("augment", "distill_intermediate", "distill_prediction")
MASKED_LANGUAGE_MODEL = Path("models/pretrained/masked_language_model")
EPOCHS = 3  # of the prediction stage
BATCH_SIZE = 32  # of the intermediate stage, as in the released code
ROWS, FEW_ROWS = 48, 8
HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"  # set by models/precision.py
PLAIN, OURS, ONE_AT_A_TIME = "as released", "this pipeline", "this pipeline, one masked word per forward"


class World:
    """A task's settings, models and rows after a finished `dvc repro`."""

    def __init__(self, name: str):
        configuration = settings.load()
        self.name, self.seed, self.numerics = name, configuration.seed, configuration.numerics
        self.kind = configuration.task(name).kind
        self.recipes = {stage_name: configuration.of(stage_name, name) for stage_name in STAGES}
        prepared = Path("data", name, "prepared")
        self.task = tasks.load(configuration, name)
        self.train = list(rows.read(prepared / "train.jsonl"))
        self.validation = list(rows.read(prepared / "validation.jsonl"))
        self.tokenizer = checkpoints.tokenizer(Path("models", name, "general_student"))

    def teacher(self):
        return self.task.load_model(Path("models", self.name, "teacher"))

    def student(self):
        return self.task.load_model(Path("models", self.name, "general_student"), self.seed)


class Augmentation:
    """Both implementations of augmentation, for the ``chosen`` rows."""

    def __init__(self, world: World, chosen: list[dict], variants: int):
        self.world, self.chosen = world, chosen
        self.recipe = world.recipes["augment"].model_copy(update={"variants": variants})
        self.model = checkpoints.load(AutoModelForMaskedLM, MASKED_LANGUAGE_MODEL)
        self.tokenizer = checkpoints.tokenizer(MASKED_LANGUAGE_MODEL)
        self.vectors, self.stop_words = word_vectors.load("data/word_vectors")

    def sides(self, released: Callable[[str], None]) -> dict[str, Side]:
        at_once = {ONE_AT_A_TIME: 1, OURS: self.recipe.masked_at_once}
        ours = {name: Side(partial(self.ours, count), self.operations(count)) for name, count in at_once.items()}
        return {PLAIN: Side(partial(released, "augment")), **ours}

    def plain(self) -> None:
        recipe = self.recipe
        draws = recipe.variants, recipe.candidates, recipe.probability, recipe.seed
        augmenter = plain.Augmenter(self.model, self.tokenizer, self.vectors, self.stop_words, *draws)
        for row in self.chosen:
            augmenter(row["text"])

    def ours(self, masked_at_once: int) -> list[dict]:
        return list(self.augmenter(masked_at_once)(self.chosen))

    def augmenter(self, masked_at_once: int) -> Augmenter:
        recipe = self.recipe.model_copy(update={"masked_at_once": masked_at_once})
        return Augmenter(self.world.task, self.model, self.tokenizer, self.vectors, self.stop_words, recipe)

    def operations(self, masked_at_once: int) -> float:
        """Floating-point operations of the masked language model's forwards and the products of word vectors.

        The last layer's feed-forward part and the head run at the masked positions only, the head for whole words only.
        """
        augmenter, config = self.augmenter(masked_at_once), self.model.config
        texts = [text for row in self.chosen for text, _ in self.world.task.replaceable_spans(row).values()]
        sentences = [augmenter.sentence(text) for text in texts]
        forwards = [forward for sentence in sentences for forward in augmenter.candidates.masked_forwards(sentence)]
        shape, lengths = checkpoints.shape_of(config), [len(forward.pieces) for forward in forwards]
        masked = sum(len(forward.words) for forward in forwards)
        unneeded = 4.0 * (sum(lengths) - masked) * shape.hidden * shape.feed_forward
        body = forward_operations(shape, lengths) - unneeded
        head = 2.0 * masked * config.hidden_size * (config.hidden_size + len(augmenter.candidates.whole_words))
        words = {word.text.lower() for sentence in sentences for word in sentence.words if word.piece is None}
        return body + head + 2.0 * len(words & self.vectors.key_to_index.keys()) * self.vectors.vectors.size


class Distillation:
    """Both implementations of the two distillation stages, for the ``learned`` rows."""

    def __init__(self, world: World, learned: list[dict], variants: int):
        self.world, self.learned = world, list(transfer_set.without_labels(world.task, learned))
        of_default, self.prediction = world.recipes["distill_intermediate"], world.recipes["distill_prediction"]
        self.intermediate = of_default.model_copy(update={"batch_size": BATCH_SIZE})
        self.teacher, self.student = (
            checkpoints.shape_of(model.config) for model in (world.teacher(), world.student())
        )
        self.layer_map = map_layers(
            self.intermediate.layer_map, self.student.layers, self.teacher.layers, "distill_intermediate.layer_map"
        )
        # The same ratio of validation rows to learned rows as in a full run. With all validation rows, a short run
        # would mostly evaluate.
        rows_of_full_run = len(world.train) * (variants + 1)
        count = max(1, len(world.validation) * len(learned) // rows_of_full_run)
        self.validation = EvaluationSet(world.task, world.validation[:count], world.tokenizer)
        self.scratch, self.logits = tempfile.TemporaryDirectory(), None

    def folder(self) -> str:
        """A new folder: a round must not find the files of another."""
        return tempfile.mkdtemp(dir=self.scratch.name)

    def encoded(self) -> EncodedRows:
        return transfer_set.encode(self.world.task, self.learned, self.world.tokenizer, self.folder())

    def sides(self, released: Callable[[str], None]) -> dict[str, dict[str, Side]]:
        lengths = self.encoded().lengths.tolist()
        teacher, student = (forward_operations(shape, lengths) for shape in (self.teacher, self.student))
        prediction = forward_operations(self.student, lengths, first_position=self.world.task.uses_first_position_only)
        projections = 2.0 * sum(lengths) * (self.student.layers + 1) * self.student.hidden * self.teacher.hidden
        return {
            "distill_intermediate": {
                PLAIN: Side(partial(released, "distill_intermediate")),
                OURS: Side(self.our_intermediate, teacher + TRAINING * (student + projections)),
            },
            "distill_prediction": {
                PLAIN: Side(partial(released, "distill_prediction")),
                OURS: Side(self.our_prediction, EPOCHS * TRAINING * prediction),
            },
        }

    def padded(self, rows: list[dict]) -> plain.Rows:
        encoded = self.world.task.encode(rows, self.world.tokenizer)
        return plain.Rows(encoded, self.world.tokenizer, self.world.task.max_length)

    def plain_student(self, dropout: float | None):
        student = self.world.student()
        checkpoints.set_dropout(student, dropout)
        return student

    def plain_intermediate(self) -> None:
        plain.learn_states(
            self.plain_student(self.intermediate.dropout).base_model,
            self.world.teacher().base_model,
            self.padded(self.learned),
            self.layer_map,
            1,
            self.intermediate.batch_size,
            self.intermediate.learning_rate,
        )

    def our_intermediate(self) -> None:
        data, task = self.encoded(), self.world.task
        self.logits = TeacherLogits.create(self.folder(), data.logit_counts(), task.num_classes)
        learn_intermediate(
            self.world.student().base_model,
            self.world.teacher(),
            data,
            self.world.tokenizer,
            self.intermediate.model_copy(update={"epochs": 1, "min_steps": None}),
            self.world.numerics,
            "distill_intermediate",
            LogitsRecorder(task, self.logits),
        )

    def plain_prediction(self) -> None:
        validation = self.padded(self.validation.rows)
        plain.learn_logits(
            self.plain_student(self.prediction.dropout),
            self.world.teacher(),
            self.padded(self.learned),
            plain.LOSSES[self.world.kind],
            lambda student: plain.outputs_of(student, validation),
            EPOCHS,
            self.prediction.batch_size,
            self.prediction.learning_rate,
            self.prediction.warmup,
        )

    def our_prediction(self) -> None:
        """On the teacher logits that the intermediate stage has recorded."""
        learn_logits(
            self.world.student,
            self.world.tokenizer,
            self.encoded(),
            self.logits,
            self.validation,
            self.prediction.model_copy(update={"epochs": EPOCHS, "min_steps": None}),
            self.world.numerics,
        )


class Released:
    """The released recipe in its own process. ``released(stage)`` runs a stage there and waits for it."""

    def __init__(self, arguments: argparse.Namespace, chosen: list[dict], learned: list[dict], variants: int):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        pages = os.environ[HUGE_PAGES]
        os.environ[HUGE_PAGES] = pages if arguments.same_memory else "0"
        context.Process(target=serve, args=(theirs, arguments, chosen, learned, variants), daemon=True).start()
        os.environ[HUGE_PAGES] = pages
        theirs.close()
        self.wait()

    def __call__(self, stage_name: str) -> None:
        self.pipe.send(stage_name)
        self.wait()

    def wait(self) -> None:
        try:
            self.pipe.recv()
        except (EOFError, OSError):
            raise UserError("the released recipe's process has failed: its error is printed above") from None


def serve(pipe, arguments: argparse.Namespace, chosen: list[dict], learned: list[dict], variants: int) -> None:
    """The released recipe's process: receives names of stages and runs them."""
    if arguments.same_memory:
        stage.keep_freed_memory()
    torch.manual_seed(1)
    world = World(arguments.task)
    distillation = Distillation(world, learned, variants)
    runs = {
        "distill_intermediate": distillation.plain_intermediate,
        "distill_prediction": distillation.plain_prediction,
    }
    if "augment" in arguments.stages:
        runs["augment"] = Augmentation(world, chosen, variants).plain
    with contextlib.suppress(EOFError):  # the other process has ended
        while True:
            pipe.send("ready")
            runs[pipe.recv()]()


def check_task(world: World, stages: list[str]) -> None:
    """The released code is for sentences. Others have extended it to question answering, without augmentation."""
    if world.kind not in plain.LOSSES:
        raise UserError(f"{world.name}: the kind is {world.kind}: choose a task of kind {' or '.join(plain.LOSSES)}")
    if "augment" in stages and set(world.task.replaceable_spans(world.train[0])) != {"text"}:
        raise UserError(
            f"--stages: augment needs rows with one text, {world.name} has several: choose the other stages"
        )


def table_row(stage_name: str, released: Side, ours: Side, ceiling: float) -> list[str]:
    share = f"{100 * ours.operations / ours.median / ceiling:.0f} %" if ours.operations else ""
    seconds = [f"{side.median:.1f}" for side in (released, ours)]
    return [stage_name, *seconds, f"{released.median / ours.median:.1f}", share]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", nargs="?", default="rotten_tomatoes")
    parser.add_argument("--within", type=Path, default=ROOT, help="working copy with the task's finished stages")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--rows", type=int, help=f"training rows (default: {ROWS}, or {FEW_ROWS} with --quick)")
    parser.add_argument("--variants", type=int, default=20, help="variants of each row, if augment is chosen")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--same-memory", action="store_true", help="this project's memory settings on both sides")
    parser.add_argument("--quick", action="store_true", help="few rows")
    arguments = parser.parse_args()
    stage.report_errors_in_one_line()
    stage.imports_are_done()
    stage.keep_freed_memory()
    os.chdir(arguments.within)
    torch.manual_seed(1)
    world = World(arguments.task)
    check_task(world, arguments.stages)
    count = arguments.rows or (FEW_ROWS if arguments.quick else ROWS)
    chosen = learned = random.Random(1).sample(world.train, min(count, len(world.train)))
    with_augmentation = "augment" in arguments.stages
    variants = arguments.variants if with_augmentation else 0
    if with_augmentation:
        augmentation = Augmentation(world, chosen, variants)
        learned = augmentation.ours(augmentation.recipe.masked_at_once)
    released = Released(arguments, chosen, learned, variants)
    distillation = Distillation(world, learned, variants)
    compared = {"augment": augmentation.sides(released)} if with_augmentation else {}
    compared |= {name: sides for name, sides in distillation.sides(released).items() if name in arguments.stages}
    if "distill_intermediate" not in compared and "distill_prediction" in compared:
        distillation.our_intermediate()  # records the teacher logits
    with autocast(world.numerics.precision, torch.device("cpu")):
        ours = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
    ceilings = {dtype: limit(dtype) for dtype in dict.fromkeys((torch.float32, ours))}
    for name, sides in compared.items():
        in_turn(sides, arguments.rounds, name)

    peaks = ", ".join(f"{str(dtype).split('.')[1]} {peak / 1e9:.0f}" for dtype, peak in ceilings.items())
    print(f"\n{machine()}; a large matrix product, in GFLOP/s: {peaks}; this pipeline trains in {ours}")
    print(f"{count} rows of {world.name} of at most {world.task.max_length} word pieces; {len(learned)} with variants")
    ceiling = ceilings[torch.float32]
    table = [
        table_row(f"{name}{side.removeprefix(OURS)}", sides[PLAIN], sides[side], ceiling)
        for name, sides in compared.items()
        for side in sides
        if side != PLAIN
    ]
    if len(compared) == len(STAGES):
        table.append(table_row("all three", together(compared, PLAIN), together(compared, OURS), ceiling))
    print_table(["stage", "as released, s", "this pipeline, s", "ratio", "of the limit"], table)


def together(compared: dict[str, dict[str, Side]], side: str) -> Side:
    """The sum of the stages."""
    parts = [sides[side] for sides in compared.values()]
    seconds = [sum(round_of) for round_of in zip(*(part.seconds for part in parts), strict=True)]
    return Side(parts[0].run, sum(part.operations for part in parts), seconds)


if __name__ == "__main__":
    main()
