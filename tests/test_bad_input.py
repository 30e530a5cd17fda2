"""An error that the user can fix: the stage ends with one line that names the key, file or row, and leaves no files."""

import csv
import json
import math
import pickle
import shutil
import signal
import time
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from tiny import lines, run_stage, start_python
from transformers import GPT2Config

from pipeline.tinybert.core.errors import Interrupted, message
from pipeline.tinybert.training import loop

ROWS = "data/raw/tiny/rows.csv"
SOURCE = "tasks.tiny.source"
CHECKPOINT = "data/raw/encoder/checkpoint"
STUDENT = "data/raw/general_student/student"


def tree(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts
    }


@pytest.fixture
def refusal(world):
    """``refusal(stage, task, **changes)``: run a stage that must fail; its one-line message. No file may change."""

    def run(name: str, task: str = "tiny", **changes) -> str:
        if changes:
            tiny.write_params(world / "params.yaml", **changes)
        before = tree(world)
        with pytest.raises((Exception, Interrupted)) as raised:
            run_stage(name, task)
        line = message(raised.value)
        assert line is not None, f"a traceback: {raised.value!r}"
        assert len(line.splitlines()) == 1
        assert tree(world) == before
        return line

    return run


def write_table(path: Path, rows: list[list[str]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


# Locations


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("encoder", "encoder.checkpoint"),
        ("encoder", "encoder.masked_language_model.text.location"),
        ("word_vectors", "word_vectors.location"),
        ("prepare", f"{SOURCE}.location"),
        ("prepare", "tasks.tiny.unlabelled.location"),
    ],
)
@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("package:no_such_package/rows.csv", "no package 'no_such_package' is installed"),
        ("package:pytest/rows.csv", "the installed package 'pytest' has no rows.csv"),
        ("data/raw/nowhere.csv", "there is no file or folder data/raw/nowhere.csv"),
    ],
)
def test_a_missing_package_or_file_is_named_with_its_setting(name, key, location, message, refusal):
    assert refusal(name, **{key: location}).startswith(f"{key}: {message}")


@pytest.mark.parametrize(
    ("name", "key"), [("encoder", "encoder.checkpoint"), ("prepare", f"{SOURCE}.location")], ids=["model", "rows"]
)
@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("hub:nobody/nothing@0123456789012345678901234567890123456789", "cannot fetch hub:nobody/nothing@0123456"),
        ("hub:nobody/nothing", "hub:nobody/nothing: expected hub:OWNER/NAME@COMMIT"),
        ("hub:nobody/nothing@main", "hub:nobody/nothing@main: expected hub:OWNER/NAME@COMMIT"),
    ],
)
def test_a_hub_location_that_is_missing_or_malformed_is_named_with_its_setting(name, key, location, message, refusal):
    assert refusal(name, **{key: location}).startswith(f"{key}: {message}")


OUTSIDE = "on which the stage depends: DVC would not see the file change. Run"


@pytest.mark.parametrize(
    ("name", "key", "folder"),
    [
        ("encoder", "encoder.checkpoint", "encoder"),
        ("encoder", "encoder.masked_language_model.text.location", "encoder"),
        ("word_vectors", "word_vectors.location", "word_vectors"),
        ("word_vectors", "word_vectors.stop_words", "word_vectors"),
        ("general_student", "general_student.checkpoint", "general_student"),
        ("general_student", "general_student.distillation.text.location", "general_student"),
        ("prepare", f"{SOURCE}.location", "tiny"),
        ("prepare", "tasks.tiny.unlabelled.location", "tiny"),
        ("finetune_teacher", "finetune_teacher.checkpoint", "tiny/teacher"),
        ("finetune_teacher", "finetune_teacher.encoder", "finetune_teacher"),
    ],
)
def test_a_path_that_dvc_does_not_watch_for_the_stage_is_refused_with_the_lines_that_move_it(
    name, key, folder, refusal
):
    Path("data/raw/own").touch()
    start = {"general_student.start": key.split(".")[1]} if name == "general_student" else {}
    assert refusal(name, **{key: "data/raw/own"}, **start) == (
        f"{key}: data/raw/own is not in data/raw/{folder}, {OUTSIDE} `mkdir -p data/raw/{folder} && mv data/raw/own"
        f" data/raw/{folder}/`, then set {key}: data/raw/{folder}/own"
    )


def test_a_task_without_a_folder_of_its_own_is_refused(refusal):
    shutil.rmtree("data/raw/tiny")
    assert refusal("prepare") == (
        "data/raw/tiny: there is no such folder, and DVC fails without it: `mkdir -p data/raw/tiny`, then put the"
        " task's files there, or a README.md that says where its rows come from"
    )


# Rows


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"{SOURCE}.text": "sentence"}, f"{SOURCE}: rows.csv has no column 'sentence' (it has: text, label)"),
        ({f"{SOURCE}.label": "class"}, f"{SOURCE}: rows.csv has no column 'class' (it has: text, label)"),
        ({f"{SOURCE}.where": {"origin": "a"}}, f"{SOURCE}: rows.csv has no column 'origin'"),
        ({f"{SOURCE}.where": {"label": "neutral"}}, f"{SOURCE}: rows.csv has no row where"),
        (
            {f"{SOURCE}.labels": {"good": "positive"}},
            "rows.csv, line 3: label 'negative' is not in the source's `labels` (positive)",
        ),
        (
            {f"{SOURCE}.location": "data/raw/tiny"},
            f"{SOURCE}: data/raw/tiny is a folder: name its files under `splits`",
        ),
        ({f"{SOURCE}.location": "data/raw/tiny/a.xlsx"}, f"{SOURCE}: data/raw/tiny/a.xlsx: expected a file that ends"),
        ({f"{SOURCE}.splits": {"test": "rows.csv"}}, f"{SOURCE}.splits: no 'train'"),
        ({"tasks.tiny.unlabelled.text": "review"}, "tasks.tiny.unlabelled: text.csv has no column 'review'"),
        ({"tasks.tiny.metric": "acuracy"}, "tasks.tiny.metric: expected one of accuracy, macro_f1, mcc"),
        ({"prepare.test": 0.6, "prepare.validation": 0.5}, "prepare.test + prepare.validation = 1.1: nothing is left"),
    ],
)
def test_settings_that_do_not_match_the_source_are_an_error(changes, message, refusal):
    Path("data/raw/tiny/a.xlsx").touch()
    assert message in refusal("prepare", **changes)


HEAD = ["text", "label"]
GOOD, BAD = ["a good film", "positive"], ["a bad film", "negative"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([HEAD, GOOD, ["  ", "positive"], BAD], "rows.csv, line 3: column 'text': empty text"),
        ([HEAD, GOOD, BAD, ["fine", ""]], "rows.csv, line 4: column 'label': no label"),
        (
            [HEAD, ["", "a"], ["fine", ""]],
            "2 of 2 rows are invalid, as listed above; the first: rows.csv, line 2: column 'text': empty text",
        ),
        (
            [HEAD, *[[f"film {n}", "positive"] for n in range(30)]],
            "all 21 rows of train have the label 'positive', expected two",
        ),
        ([HEAD, GOOD, BAD], "2 rows: too few to split off test and validation: bring 10 or more"),
        ([HEAD], f"{SOURCE}: rows.csv has no row"),
        ([], f"{SOURCE}: {ROWS} cannot be read as csv: line 1: the file is empty: expected a header"),
        ([HEAD, ["a", "b", "c", "d"]], f"{SOURCE}: {ROWS} cannot be read as csv"),
    ],
    ids=["empty text", "no label", "all bad rows", "one class", "too small", "no row", "empty", "ragged"],
)
def test_unusable_rows_are_an_error(rows, message, refusal):
    write_table(Path(ROWS), rows)
    assert message in refusal("prepare")


def test_a_file_that_is_not_utf8_is_an_error(refusal):
    Path(ROWS).write_bytes("text,label\ncafé,a\n".encode("latin-1"))
    assert f"{SOURCE}: {ROWS} cannot be read as csv" in refusal("prepare")


@pytest.mark.parametrize("name", ["prepare", "general_student", "finetune_teacher", "augment", "evaluate"])
def test_an_undefined_task_is_an_error(name, refusal):
    assert refusal(name, "tinny").startswith("no task 'tinny' under `tasks`; did you mean 'tiny'?")


def test_texts_beyond_max_length_are_truncated_and_counted(world, capfd):
    long = {"id": "train-long", "text": "The film is good " + "and the story is fine " * 20, "label": "positive"}
    with open("data/tiny/prepared/train.jsonl", "a") as file:
        file.write(json.dumps(long) + "\n")
    run_stage("finetune_teacher")
    assert "1 of 113 texts are longer than 32 word pieces (max_length) and are cut" in capfd.readouterr().out


def test_a_max_length_beyond_the_models_positions_is_an_error(refusal, world):
    tiny.write_params(world / "params.yaml", **{"tasks.tiny.max_length": 128})
    run_stage("prepare")
    assert "max_length: 128: the model takes 64 word pieces" in refusal("finetune_teacher")


# Checkpoints


@pytest.mark.parametrize(
    ("stage", "file"),
    [
        ("augment", "data/tiny/prepared/train.jsonl"),
        ("finetune_teacher", "data/tiny/prepared/validation.jsonl"),
        ("distill_intermediate", "data/tiny/augmented/rows.jsonl"),
        ("distill_prediction", "data/tiny/augmented/rows.jsonl"),
        ("evaluate", "data/tiny/prepared/test.jsonl"),
        ("export", "data/tiny/prepared/train.jsonl"),
        ("benchmark", "data/tiny/prepared/test.jsonl"),
        ("package", "metrics/tiny/scores.json"),
        ("summary", "metrics/summary/tiny.json"),
    ],
)
def test_a_file_of_another_stage_that_is_emptied_or_half_written_is_named(stage, file, refusal):
    content = Path(file).read_bytes()
    for how, left in (
        ("empty" if file.endswith("jsonl") else "damaged", b""),
        ("damaged", content[: len(content) // 2]),
    ):
        Path(file).write_bytes(left)
        assert refusal(stage) == f"{file} is {how}: run `dvc repro`, which writes it again"


@pytest.mark.parametrize(
    "file", ["model.onnx", "model_int8.onnx", "model.safetensors", "config.json", "tokenizer.json"]
)
def test_a_damaged_file_of_the_student_is_not_released(file, refusal):
    path = Path("models/tiny/onnx", file)
    content = path.read_bytes()
    for left in (b"", content[: len(content) // 2]):
        path.write_bytes(left)
        assert refusal("package").startswith("models/tiny/onnx")


def test_a_folder_without_a_model_is_an_error(refusal):
    message = refusal("encoder", **{"encoder.checkpoint": "data/raw/encoder"})
    assert message.startswith("encoder.checkpoint: data/raw/encoder has no config.json")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b"{}"),
        ("model.safetensors", b"not weights"),
        ("model.safetensors", None),
        ("tokenizer.json", b"{"),
    ],
)
def test_a_broken_checkpoint_is_named_with_its_setting(name, content, refusal):
    file = Path(CHECKPOINT, name)
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    assert refusal("encoder").startswith(f"encoder.checkpoint: {CHECKPOINT}")


def test_weights_of_an_encoder_that_lack_a_layer_are_an_error(refusal):
    file = Path(CHECKPOINT, "model.safetensors")
    save_file({name: weight for name, weight in load_file(file).items() if "layer.2." not in name}, file)
    message = refusal("encoder")
    assert message.startswith(f"encoder.checkpoint: {CHECKPOINT} cannot be loaded: its weights are not those of the")
    assert "16 missing (encoder.layer.2.attention.output.LayerNorm.bias, " in message


def test_an_encoder_without_tokenizer_files_is_an_error(refusal):
    for file in Path(CHECKPOINT).glob("tokenizer*"):
        file.unlink()
    assert "its tokenizer has no words: copy the tokenizer's files" in refusal("encoder")


def test_an_unsupported_model_family_is_an_error(refusal):
    GPT2Config().save_pretrained(CHECKPOINT)
    known = "bert, roberta, xlm-roberta, electra, distilbert, mpnet, modernbert"
    expected = f"encoder.checkpoint: model family 'gpt2' is not supported: expected one of {known}"
    assert refusal("encoder") == expected


def test_a_family_of_teachers_is_refused_for_the_encoder_by_name(refusal):
    tiny.write_family(Path(CHECKPOINT), "deberta-v2")
    assert refusal("encoder") == (
        "encoder.checkpoint: model family 'deberta-v2' is supported for a teacher only (finetune_teacher.encoder):"
        " expected one of bert, roberta, xlm-roberta, electra, distilbert, mpnet, modernbert"
    )


def test_a_tokenizer_with_custom_code_is_refused(refusal):
    Path(CHECKPOINT, "code.py").write_text("from pathlib import Path\nPath('executed').touch()\n")
    path = Path(CHECKPOINT, "tokenizer_config.json")
    auto_map = {"AutoTokenizer": ["code.Tokenizer", "code.Tokenizer"]}
    path.write_text(json.dumps({"tokenizer_class": "Tokenizer", "auto_map": auto_map}))
    assert "requires remote code (auto_map in tokenizer_config.json)" in refusal("encoder")


def test_a_checkpoint_with_custom_code_is_refused(refusal):
    config = Path(CHECKPOINT, "config.json")
    auto_map = {"AutoModel": "code.Model", "AutoConfig": "code.Config"}
    config.write_text(json.dumps({**json.loads(config.read_text()), "auto_map": auto_map}))
    Path(CHECKPOINT, "code.py").write_text("from pathlib import Path\nPath('executed').touch()\n")
    assert "requires remote code (auto_map in config.json), which is refused" in refusal("encoder")


class Touch:
    """Creates a file when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("executed"),)


@pytest.mark.parametrize("write", [torch.save, lambda it, path: path.write_bytes(pickle.dumps(it))], ids=["zip", "old"])
def test_pickled_weights_execute_no_code(write, refusal):
    Path(CHECKPOINT, "model.safetensors").unlink()
    write({"embeddings.word_embeddings.weight": Touch()}, Path(CHECKPOINT, "pytorch_model.bin"))
    assert refusal("encoder").startswith(f"encoder.checkpoint: {CHECKPOINT}")
    assert not Path("executed").exists()


# Word vectors


@pytest.mark.parametrize("text", ["", "film 0.1 0.2\nplot 0.1\n", "film good\n"], ids=["empty", "ragged", "no numbers"])
def test_a_file_without_vectors_is_an_error(text, refusal):
    Path("data/raw/word_vectors/vectors.txt").write_text(text)
    assert refusal("word_vectors").startswith(
        "word_vectors.location: data/raw/word_vectors/vectors.txt cannot be read as"
    )


# Teacher and student


def other_vocabulary(folder: str) -> None:
    path = Path(folder, "tokenizer.json")
    path.write_text(path.read_text().replace('"charming"', '"enchanting"'))


GENERAL = "general_student"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"{GENERAL}.layers": [1, 5]}, f"{GENERAL}.layers: [1, 5]: expected numbers from 1 to 4"),
        ({f"{GENERAL}.layers": [1, 2, 3]}, f"{GENERAL}.shape.layers is 2: make them agree"),
        ({f"{GENERAL}.shape.hidden": 12}, f"{GENERAL}.shape.hidden: 12, but start: layers"),
        ({f"{GENERAL}.start": "checkpoint"}, f"{GENERAL}.checkpoint: cannot fetch hub:huawei-noah/"),
        (
            {f"{GENERAL}.start": "checkpoint", f"{GENERAL}.checkpoint": STUDENT},
            f"{GENERAL}.shape.layers: 2, but the checkpoint {STUDENT} gives 4",
        ),
        (
            {f"{GENERAL}.start": "distillation", f"{GENERAL}.shape.heads": 3},
            f"{GENERAL}.distillation.losses.attention: the student has 3 heads, the teacher 2",
        ),
        (
            {f"{GENERAL}.start": "distillation", f"{GENERAL}.shape.hidden": 25},
            f"{GENERAL}.shape.hidden: 25 is not a multiple of {GENERAL}.shape.heads, 2",
        ),
        (
            {f"{GENERAL}.start": "distillation", f"{GENERAL}.distillation.layer_map": [1, 5]},
            f"{GENERAL}.distillation.layer_map: [1, 5]: expected 2 numbers from 1 to 4",
        ),
        (
            {f"{GENERAL}.start": "distillation", f"{GENERAL}.distillation.text.text": "review"},
            f"{GENERAL}.distillation.text: text.csv has no column 'review'",
        ),
    ],
)
def test_an_impossible_general_student_is_an_error_that_names_the_setting(changes, message, refusal):
    tiny.write_checkpoint(Path(STUDENT))
    assert message in refusal("general_student", **changes)


def test_a_general_student_with_another_vocabulary_is_an_error(refusal):
    tiny.write_checkpoint(Path(STUDENT), layers=2)
    other_vocabulary(STUDENT)
    changes = {f"{GENERAL}.start": "checkpoint", f"{GENERAL}.checkpoint": STUDENT}
    assert f"{GENERAL}.checkpoint: the student's vocabulary" in refusal("general_student", **changes)


def test_a_student_with_too_few_positions_is_an_error(refusal):
    tiny.write_checkpoint(Path("models/tiny/general_student"), layers=2, max_position_embeddings=16)
    assert "max_length: 32: the model takes 16 word pieces" in refusal("distill_intermediate")


@pytest.mark.parametrize(
    ("layers", "layer_map", "message"),
    [
        (2, [1, 5], "[1, 5]: expected 2 numbers from 1 to 4, one for each layer of the student"),
        (2, [4], "[4]: expected 2 numbers from 1 to 4, one for each layer of the student"),
        (3, "uniform", "uniform: 4 teacher layers are not divisible by 3 student layers"),
        (5, "last", "last: the student has 5 layers, the teacher only 4"),
    ],
)
def test_an_impossible_layer_map_is_an_error(layers, layer_map, message, refusal):
    tiny.write_checkpoint(Path("models/tiny/general_student"), layers=layers)
    printed = refusal("distill_intermediate", **{"distill_intermediate.layer_map": layer_map})
    assert printed.startswith(f"distill_intermediate.layer_map: {message}")


# Stages as processes: exit code and terminal output


@pytest.mark.parametrize(
    ("name", "arguments", "changes", "message"),
    [
        ("prepare", ["tinny"], {}, "prepare: no task 'tinny' under `tasks`; did you mean 'tiny'? (defined: tiny)"),
        (
            "encoder",
            [],
            {"encoder.checkpoint": f"hub:nobody/nothing@{'0' * 40}"},
            "encoder: encoder.checkpoint: cannot fetch hub:nobody/nothing@0000",
        ),
    ],
)
def test_a_stage_ends_with_one_line_and_exit_code_1(name, arguments, changes, message, world):
    tiny.write_params(world / "params.yaml", **changes)
    process = start_python("-m", f"pipeline.{name}", *arguments)
    _, printed = process.communicate(timeout=120)
    assert process.returncode == 1
    assert len(lines(printed)) == 1
    assert lines(printed)[0].startswith(message)


def test_interrupted_training_leaves_no_files_and_can_be_started_again(world):
    tiny.write_params(world / "params.yaml", **{"finetune_teacher.epochs": 100_000})
    shutil.rmtree("models/tiny/teacher")
    before = tree(world)
    process = start_python("-m", "pipeline.finetune_teacher", "tiny")
    shown = ""
    while "validation_accuracy" not in shown:  # an epoch is done: its weights are on disk
        assert (character := process.stderr.read(1)), shown
        shown += character
    assert list(Path("models").glob(".scratch-*"))
    process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    _, printed = process.communicate(timeout=60)
    assert time.monotonic() - begin < 10
    assert process.returncode == 1
    assert "Traceback" not in printed
    expected = "finetune_teacher: interrupted (SIGINT): no half-written file is left; `dvc repro` resumes"
    assert lines(printed)[-1] == expected
    assert tree(world) == before

    tiny.write_params(world / "params.yaml")
    run_stage("finetune_teacher")
    assert Path("models/tiny/teacher/model.safetensors").exists()


@pytest.mark.parametrize(
    ("stage", "room"),
    [("finetune_teacher", 40), ("finetune_teacher", 260), ("distill_intermediate", 20)],
    ids=["while saving the best weights", "while saving a checkpoint", "while encoding rows"],
)
def test_a_full_disk_is_reported_in_one_line(stage, room, refusal, small_disk, monkeypatch):
    """``room``: free KiB on the disk when the stage starts. 260 are enough for a run that saves no checkpoint."""
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", 0 if room == 260 else math.inf)
    blocks = sum(-(-path.stat().st_size // 4096) for path in Path("models").rglob("*"))
    small_disk(Path("models"), kib=4 * blocks + room)
    assert refusal(stage).startswith("the disk is full")
