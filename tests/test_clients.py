"""What runs the release folder without this project answers as PyTorch does: its predict.py, and transformers.js."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import transformers

from pipeline.tinybert import tasks
from pipeline.tinybert.core import settings
from pipeline.tinybert.data import rows
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.models.inference import EvaluationSet, pytorch_forward
from pipeline.tinybert.release import release_folder, stand_alone
from pipeline.tinybert.tasks.named_entities import spans_of

PACKAGES = tiny.ROOT / "docs" / "demo"
TEXTS = ["The film was really great with story .", "the plot is dull", "a heartwarming film"]
LONG = "The film is good , but the plot was very dull and the cast seems awful with a great script . " * 3
THRESHOLD = 0.0
CLOSE = {"default": 0.1, "q8": 0.1, "int8": 0.1, "fp32": 1e-4}  # by dtype


def transformers_js(folder: Path, task: str, inputs: list[list]) -> dict[str, list]:
    """dtype → the answers of transformers.js; each of ``inputs`` holds the arguments of one call."""
    if shutil.which("node") is None or not (PACKAGES / "node_modules").is_dir():
        pytest.skip("needs Node and `npm ci --ignore-scripts` in docs/demo")
    arguments = [PACKAGES, folder.parent, folder.name, task, json.dumps(inputs)]
    command = ["node", Path(__file__).with_name("transformers_js.mjs"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def release(exported_kind):
    """``release(kind)``: the release folder of a task of this kind, without its card."""

    def make(kind: str) -> Path:
        name = exported_kind(kind)
        configuration, folder = settings.load(), Path("models", name, "release")
        task = tasks.load(Path("data", name, "prepared", "task.json"), configuration.task(name), name)
        folder.mkdir()
        serving = release_folder.serving_settings(task, configuration.task(name), THRESHOLD)
        release_folder.write(folder.with_name("onnx"), folder, serving)
        return folder.absolute()

    return make


def test_transformers_js_finds_each_file_and_answers_as_pytorch_does(world):
    folder = Path("models/tiny/release").absolute()
    expected = transformers.pipeline("text-classification", model=str(folder), top_k=None)(TEXTS)
    found = transformers_js(folder, "text-classification", [[text, {"top_k": None}] for text in TEXTS])
    for dtype, answers in found.items():
        for ours, theirs in zip(expected, answers, strict=True):
            scores = {answer["label"]: answer["score"] for answer in theirs}
            assert scores == pytest.approx({answer["label"]: answer["score"] for answer in ours}, abs=CLOSE[dtype])
    assert found["default"] == found["q8"] == found["int8"] != found["fp32"]


def test_transformers_js_tags_words_as_pytorch_does(release):
    folder = release("named_entities")
    expected = transformers.pipeline("token-classification", model=str(folder))(TEXTS)
    found = transformers_js(folder, "token-classification", [[text] for text in TEXTS])["fp32"]
    for ours, theirs in zip(expected, found, strict=True):
        assert [(answer["word"], answer["entity"]) for answer in theirs] == [
            (answer["word"], answer["entity"]) for answer in ours
        ]


def test_the_int8_weights_are_stored_once(world):
    folder = Path("models/tiny/release/onnx")
    exported = Path("models/tiny/onnx/model_int8.onnx")
    assert (folder / "model_quantized.onnx").read_bytes() == exported.read_bytes()
    assert (folder / "model_int8.onnx").stat().st_size < exported.stat().st_size


ALONE = """
import importlib.abc, runpy, sys
class OnlyThese(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "transformers", "pipeline", "scipy", "seqeval", "pandas"):
            raise ImportError(name)
sys.meta_path.insert(0, OnlyThese())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_alone(folder: Path, *arguments: str, lines: str = "") -> list[dict]:
    """The answers of the folder's predict.py where the libraries that it must not need are missing."""
    command = [sys.executable, "-c", ALONE, folder / "predict.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, input=lines, cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def expected_answers(kind: str, asked: list[dict]) -> list[dict]:
    """The answers of the project's own code, in PyTorch."""
    task = tasks.load(Path("data", kind, "prepared", "task.json"), settings.load().task(kind), kind)
    asked = [
        {field: value.strip() if isinstance(value, str) else value for field, value in row.items()} | {"given": row}
        for row in asked
    ]
    evaluation = EvaluationSet(task, asked, checkpoints.tokenizer(f"models/{kind}/student"))
    with pytorch_forward(task, task.load_model(f"models/{kind}/student")) as forward:
        logits = evaluation.logits(forward, batch_size=1)
    predictions = task.apply_threshold(evaluation.predictions(logits), THRESHOLD if task.needs_threshold else None)
    of_row = [[] for _ in asked]
    for number, values in zip(evaluation.columns["example"], logits, strict=True):
        of_row[number].append(values)
    return [task.format_prediction(*each) for each in zip(asked, predictions, of_row, strict=True)]


def longer(row: dict) -> dict:
    """A row of the same kind that is longer than max_length, with characters that the tokenizer drops."""
    made = {name: f" {text}\u200b {LONG}" if isinstance(text, str) else text for name, text in row.items()}
    return {**made, "words": [*row["words"], "\ufe0f", *LONG.split()]} if "words" in row else made


@pytest.mark.parametrize("kind", tasks.KINDS)
def test_the_folder_s_predict_py_answers_as_the_project_does(release, kind):
    folder = release(kind)
    asked = [
        {field: value for field, value in row.items() if field in ("text", "pair", "words", "question", "passage")}
        for row in rows.read(f"data/{kind}/prepared/test.jsonl")
    ][:12]
    asked += [longer(row) for row in asked[:3]]
    given = [{"context" if field == "passage" else field: value for field, value in row.items()} for row in asked]
    expected = expected_answers(kind, asked)
    for batch_size in (1, 4):
        found = stand_alone.Model(folder, "onnx/model.onnx").predict(given, batch_size)
        for ours, theirs in zip(expected, found, strict=True):
            for name, value in ours.items():
                close = name in ("number", "probabilities")
                assert theirs[name] == (pytest.approx(value, abs=2e-3) if close else value)
    lines = "".join(json.dumps(row) + "\n" for row in given[-3:])
    alone = run_alone(folder, "--file", "onnx/model.onnx", lines=lines)
    assert alone == [{**row, **answer} for row, answer in zip(given[-3:], found[-3:], strict=True)]
    assert stand_alone.Model(folder).predict(given[:3])  # int8


def test_entities_in_a_text_have_their_places_in_it(release):
    folder = release("named_entities")
    text = " The film was really great with story ."
    [found] = stand_alone.Model(folder, "onnx/model.onnx").predict([{"text": text}])
    [in_words] = stand_alone.Model(folder, "onnx/model.onnx").predict([{"words": text.split()}])
    assert found["tags"] == in_words["tags"] and found["entities"]
    for entity, same in zip(found["entities"], in_words["entities"], strict=True):
        assert text[entity["start"] : entity["end"]] == " ".join(entity["words"])
        assert {**same, "start": entity["start"], "end": entity["end"]} == entity
    assert run_alone(folder, text, "--file", "onnx/model.onnx") == [{"text": text, **found}]


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ("IOB2", ["B-PER", "I-PER", "B-PER", "O", "B-ORG", "I-ORG", "I-ORG", "I-PER"]),
        ("IOB1", ["I-PER", "I-PER", "B-PER", "O", "I-ORG", "I-ORG", "I-ORG", "O"]),
        ("BIOES", ["B-PER", "E-PER", "S-PER", "O", "B-ORG", "I-ORG", "E-ORG", "O"]),
    ],
)
def test_tags_are_in_the_scheme_of_the_training_data(scheme, expected):
    tags = ["B-PER", "I-PER", "B-PER", "O", "B-ORG", "I-ORG", "I-ORG", "I-PER"]
    found = stand_alone.entities(tags)
    assert set(found) == spans_of(tags)
    assert stand_alone.in_scheme(tags, found, scheme) == expected
