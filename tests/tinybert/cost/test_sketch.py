import json
import time
from pathlib import Path

import pytest
import tiny
import torch
from transformers import BertForSequenceClassification

from pipeline import cost, prepare
from pipeline.tinybert import tasks
from pipeline.tinybert.augmentation import word_replacement
from pipeline.tinybert.augmentation.word_replacement import Augmenter
from pipeline.tinybert.core import settings
from pipeline.tinybert.cost import sketch
from pipeline.tinybert.cost.sketch import Sequences, Sketch
from pipeline.tinybert.cost.speed import Machine, Speed
from pipeline.tinybert.data import rows, word_vectors
from pipeline.tinybert.models import checkpoints

ENCODER = Path("data/raw/encoder/checkpoint")


@pytest.fixture
def raw_world(raw_world, monkeypatch):
    """A piece takes a layer a millionth of a second, a batch and a step nothing."""
    monkeypatch.setattr(Machine, "speed", lambda *settings: Speed(per_batch=0, per_piece=1e-6, per_squared_length=0))


def sketch_of(name: str = "tiny") -> Sketch:
    configuration = settings.load()
    task, parts, _, unlabelled = prepare.load_rows(configuration, name)
    known = prepare.open_own_teacher(configuration, name, task, {**parts, "unlabelled": unlabelled})
    return Sketch(configuration, name, task, parts, unlabelled, ENCODER, known)


def test_the_steps_are_those_that_the_stages_take(world):
    costs = {cost.stage: cost.steps for cost in sketch_of().costs()}

    def taken(stage: str) -> int:
        return json.loads(Path(f"metrics/tiny/{stage}/validation.json").read_text())["steps"]

    assert costs["finetune_teacher"] == taken("finetune_teacher")
    assert costs["finetune_student"] == 2 * taken("finetune_student")  # two learning rates
    assert (
        taken("distill_prediction") <= costs["distill_prediction"] <= 1.2 * taken("distill_prediction")
    )  # equal variants are dropped
    assert "encoder" not in costs  # it has run


def test_few_rows_take_the_steps_of_the_floor(raw_world):
    tiny.write_params(Path("params.yaml"), **{"finetune_teacher.min_steps": 300})
    costs = {cost.stage: cost for cost in sketch_of().costs()}
    expected = "100 steps on the contrast of classes, then 112 rows, 21.4 epochs"
    assert (costs["finetune_teacher"].steps, costs["finetune_teacher"].what) == (100 + 300, expected)
    tiny.write_params(
        Path("params.yaml"), **{"finetune_student.min_steps": 300, "finetune_student.learning_rate": 0.01}
    )
    costs = {cost.stage: cost for cost in sketch_of().costs()}
    assert (costs["finetune_student"].steps, costs["finetune_student"].what) == (300, "112 rows, 21.4 epochs")


def test_the_forwards_of_augment_are_those_that_it_makes(world):
    made, folder = sketch_of(), Path("models/pretrained/masked_language_model")
    recipe = word_replacement.with_variants(made.settings_of("augment"), 112)
    task = tasks.load(settings.load(), "tiny")
    vectors = word_vectors.load("data/word_vectors")
    augmenter = Augmenter(task, tiny.masked_language_model(), checkpoints.tokenizer(folder), *vectors, recipe)
    sentences = [augmenter.sentence(row["text"]) for row in rows.read(Path("data/tiny/prepared/train.jsonl"))]
    forwards = [forward for sentence in sentences for forward in augmenter.candidates.masked_forwards(sentence)]
    assert made.forwards().count == len(forwards)
    assert made.forwards().pieces == sum(len(forward.pieces) for forward in forwards)


def test_the_logits_of_rows_beyond_max_rows_and_the_variants_are_counted(raw_world):
    tiny.write_params(Path("params.yaml"), **{"distill_intermediate.max_rows": 100, "augment.variants": 4})
    costs = {cost.stage: cost for cost in sketch_of().costs()}
    assert costs["distill_intermediate"].what == "100 rows, 1 epoch; the teacher's logits of 520 more rows"
    assert costs["distill_prediction"].what.startswith("620 rows, ")


def test_a_long_run_is_told_what_makes_it_shorter(raw_world, monkeypatch, capsys):
    sketch_of().log()
    assert "LONG" not in capsys.readouterr().out
    monkeypatch.setattr(Machine, "speed", lambda *settings: Speed(per_batch=0, per_piece=1, per_squared_length=0))
    monkeypatch.setattr(sketch, "LONG_TEXT", 10)
    tiny.write_params(Path("params.yaml"), **{"distill_prediction.epochs": 9})
    sketch_of().log()
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("LONG")]
    assert line.startswith(
        "LONG: more than an hour, most of it for distill_prediction. To make it shorter: a smaller max_length (32;"
    )
    assert "fewer augment.variants (2 of each of 112 rows)" in line and "fewer distill_prediction.epochs (9)" in line
    tiny.write_params(Path("params.yaml"), **{"distill_prediction.min_steps": 5000})  # then epochs change nothing
    sketch_of().log()
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("LONG")]
    assert "fewer distill_prediction.min_steps (5000)" in line and "distill_prediction.epochs" not in line


@pytest.mark.parametrize("kind", sorted(tasks.KINDS))
def test_every_kind_has_a_sketch(raw_world, kind):
    tiny.write_task(Path(), kind)
    stages = [cost.stage for cost in sketch_of(kind).costs()]
    assert stages == ["encoder", *(stage for stage in tiny.PER_TASK if stage in stages)] and len(stages) == 9


def test_the_command_logs_a_line_for_each_stage(raw_world, capsys):
    cost.main("tiny")
    logged = capsys.readouterr().out.splitlines()
    begin = next(number for number, line in enumerate(logged) if line.startswith("estimated time on this machine ("))
    assert "  finetune_teacher: 4 s: 42 steps: 112 rows, 3 epochs" in logged[begin:]
    assert logged[-1].startswith("  all: ")


def test_general_distillation_reads_its_text_where_its_stage_does(raw_world):
    shape = {"layers": 2, "hidden": 24, "heads": 2, "feed_forward": 40}
    tiny.write_params(Path("params.yaml"), **{"general_student.start": "distillation", "general_student.shape": shape})
    assert "general_student" in {cost.stage for cost in sketch_of().costs()}


def test_a_sample_stands_for_all_rows():
    assert Sequences.estimate([2, 4, 6], sampled=2, total=20) == Sequences(count=30, pieces=120, squared_lengths=560)


def test_time_in_which_other_programs_run_does_not_count(raw_world):
    machine = Machine(sketch_of().config, "float32")
    machine.device = torch.device("cpu")
    assert machine.seconds_of(lambda: time.sleep(0.3)) < 0.1


def test_a_step_costs_more_than_a_forward(tmp_path):
    machine = Machine(tiny.config(hidden=64, feed_forward=256), "float32")
    shape = settings.Shape(layers=4, hidden=64, heads=2, feed_forward=256)
    train, infer = (machine.speed(shape, 16, mode, "float32", 100) for mode in ("train", "infer"))
    work = {"batches": 1, "layers": 4, "pieces": 1000, "squared_lengths": 16000}
    assert train.seconds(**work) > infer.seconds(**work) > 0


def test_a_step_costs_more_if_it_trains_more_embeddings(tmp_path):
    config = tiny.config(hidden=64, feed_forward=256)
    config.vocab_size = 100_000
    machine = Machine(config, "float32")
    shape = settings.Shape(layers=2, hidden=64, heads=2, feed_forward=256)
    few, many = (machine.speed(shape, 16, "train", "float32", vocabulary) for vocabulary in (100, 100_000))
    assert many.per_batch > 2 * few.per_batch


def test_a_tasks_stages_train_the_embeddings_of_its_rows_and_the_encoder_all(raw_world, monkeypatch):
    asked = []

    def speed(self, shape, length, mode, precision, vocabulary, dropout=None) -> Speed:
        asked.append(vocabulary)
        return Speed(per_batch=1, per_piece=0, per_squared_length=0)

    monkeypatch.setattr(Machine, "speed", speed)
    made = sketch_of()
    made.encoder()
    made.finetune_teacher()
    pieces = set(sum(made.ids(made.parts["train"] + made.unlabelled), []))
    assert asked == [made.config.vocab_size, sketch.MORE_PIECES * len(pieces), sketch.MORE_PIECES * len(pieces)]


def test_each_of_several_teachers_is_counted_and_a_file_of_predictions_costs_nothing(raw_world):
    one = {cost.stage: cost for cost in sketch_of().costs()}
    tiny.write_params(Path("params.yaml"), **{"finetune_teacher.seeds": [1, 2, 3]})
    three = {cost.stage: cost for cost in sketch_of().costs()}
    assert three["finetune_teacher"].steps == 3 * one["finetune_teacher"].steps
    assert three["finetune_teacher"].what == f"{one['finetune_teacher'].what}, 3 teachers"
    assert three["distill_intermediate"].seconds > one["distill_intermediate"].seconds
    assert three["evaluate"].what == "32 rows, 5 models" and three["evaluate"].seconds > one["evaluate"].seconds


def seconds_of(stage: str) -> float:
    """Without those of the stage's start."""
    return next(cost.seconds for cost in sketch_of().costs() if cost.stage == stage) - sketch.START


def test_each_teacher_costs_what_its_own_encoder_does(raw_world):
    folders = []
    for layers in (4, 8):
        folders.append(f"data/raw/finetune_teacher/{layers}")
        tiny.write_checkpoint(Path(folders[-1]), layers=layers)
    seconds = {}
    for encoder in (*folders, folders):
        tiny.write_params(Path("params.yaml"), **{"finetune_teacher.encoder": encoder})
        seconds[str(encoder)] = seconds_of("finetune_teacher")
    few, more, both = seconds.values()
    assert more > 2 * few and both == pytest.approx(few + more)


def test_an_own_teacher_costs_what_its_checkpoint_does(raw_world):
    names = {0: "negative", 1: "positive"}
    seconds = []
    for layers in (4, 8):
        folder = f"data/raw/tiny/teacher/{layers}"
        tiny.write_checkpoint(Path(folder), BertForSequenceClassification, layers=layers, id2label=names)
        tiny.write_params(Path("params.yaml"), **{"finetune_teacher.checkpoint": folder})
        seconds.append(seconds_of("finetune_teacher"))
    assert seconds[1] > 2 * seconds[0] > 0


def test_a_file_of_predictions_costs_nothing_and_the_student_learns_the_rows_that_it_knows(raw_world):
    made = sketch_of()
    known = [made.parts["train"][0], made.parts["test"][0], made.unlabelled[3]]
    lines = ["id,label", *(f"{row['id']},positive" for row in known)]
    tiny.write_file(Path("data/raw/tiny/teacher/a.csv"), "\n".join(lines))
    tiny.write_params(Path("params.yaml"), **{"finetune_teacher.predictions": "data/raw/tiny/teacher/a.csv"})
    of_file = {cost.stage: cost for cost in sketch_of().costs()}
    assert [of_file[stage].steps for stage in ("finetune_teacher", "distill_intermediate")] == [0, 0]
    assert of_file["distill_prediction"].what.startswith("2 rows, ")
    assert of_file["evaluate"].what == "32 rows, 2 models"
    assert of_file["benchmark"].what.startswith("latency of 3 models")
