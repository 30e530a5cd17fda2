"""Clients other than this project run the release folder and answer as PyTorch does."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import tiny
import transformers

PACKAGES = tiny.ROOT / "docs" / "demo"
TEXTS = ["The film was really great with story .", "the plot is dull", "a heartwarming film"]
CLOSE = {"default": 0.1, "q8": 0.1, "int8": 0.1, "fp32": 1e-4}  # by dtype

needs_node = pytest.mark.skipif(
    shutil.which("node") is None or not (PACKAGES / "node_modules").is_dir(),
    reason="needs Node and `npm ci --ignore-scripts --prefix docs/demo`",
)


def transformers_js(folder: Path, task: str, inputs: list[list]) -> dict[str, list]:
    """dtype → the answers of transformers.js; each of ``inputs`` holds the arguments of one call."""
    arguments = [PACKAGES, folder.parent, folder.name, task, json.dumps(inputs)]
    command = ["node", Path(__file__).with_name("transformers_js.mjs"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_node
def test_transformers_js_finds_each_file_and_answers_as_pytorch_does(world):
    folder = Path("models/tiny/release").absolute()
    expected = transformers.pipeline("text-classification", model=str(folder), top_k=None)(TEXTS)
    found = transformers_js(folder, "text-classification", [[text, {"top_k": None}] for text in TEXTS])
    for dtype, answers in found.items():
        for ours, theirs in zip(expected, answers, strict=True):
            scores = {answer["label"]: answer["score"] for answer in theirs}
            assert scores == pytest.approx({answer["label"]: answer["score"] for answer in ours}, abs=CLOSE[dtype])
    assert found["default"] == found["q8"] == found["int8"] != found["fp32"]


@needs_node
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
