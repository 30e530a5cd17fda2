"""Clients other than this project run the release folder and answer as PyTorch does."""

import functools
import json
import re
import shutil
import subprocess
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import tiny
import transformers

from pipeline.tinybert import tasks
from pipeline.tinybert.core import settings
from pipeline.tinybert.release import model_card, stand_alone
from pipeline.tinybert.tasks import Task

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


@pytest.fixture
def hub(world, tmp_path):
    """The address of a hub that has the release folder as OWNER/NAME."""
    shutil.copytree("models/tiny/release", tmp_path / "OWNER/NAME/resolve/main")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@needs_node
def test_the_documents_options_fetch_both_int8_files_from_a_hub(hub, tmp_path):
    document = (tiny.ROOT / "docs/release.md").read_text(encoding="utf-8")
    [example] = re.findall(r"^```js\n(.*?)^```", document, re.MULTILINE | re.DOTALL)
    library = {"remoteHost": hub, "cacheDir": str(tmp_path / "cache"), "allowLocalModels": False}
    head = 'import { env } from "@huggingface/transformers";\nObject.assign(env, '
    script = f"{head}{json.dumps(library)});\n{example}console.log(JSON.stringify(await model({json.dumps(TEXTS)})));"
    command = ["node", "--input-type=module", "--eval", script]
    done = subprocess.run(command, cwd=PACKAGES, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == len(TEXTS)
    assert (tmp_path / "cache/OWNER/NAME/onnx/model_int8.onnx").exists()


def test_the_int8_weights_are_stored_once(world):
    folder = Path("models/tiny/release/onnx")
    exported = Path("models/tiny/onnx/model_int8.onnx")
    assert (folder / "model_quantized.onnx").read_bytes() == exported.read_bytes()
    assert (folder / "model_int8.onnx").stat().st_size < exported.stat().st_size


def by_the_card(task: Task, row: dict, folder: Path, monkeypatch) -> Any:
    """What the model card's code for transformers returns in the release folder."""
    *code, call = model_card.with_transformers(task, row)
    monkeypatch.chdir(folder)
    names: dict = {}
    exec("\n".join(code), names)
    return eval(call, names)


@pytest.mark.parametrize("kind", ["text_classification", "multi_label", "regression"])
def test_the_cards_code_for_transformers_gives_the_numbers_of_predict(release, kind, monkeypatch):
    folder, row = release(kind), {"text": TEXTS[0]}
    [found] = by_the_card(tasks.load(settings.load(), kind), row, folder, monkeypatch)
    [expected] = stand_alone.Model(folder, "onnx/model.onnx").predict([row])
    numbers = expected.get("probabilities") or {"score": expected["number"]}
    assert {answer["label"]: answer["score"] for answer in found} == pytest.approx(numbers, abs=1e-3)


def test_the_cards_code_for_transformers_reads_both_texts_of_a_pair(release, monkeypatch):
    folder = release("text_classification")
    task = tasks.load(settings.load(), "text_classification")
    scores = []
    for pair in (TEXTS[1], TEXTS[2]):
        found = by_the_card(task, {"text": TEXTS[0], "pair": pair}, folder, monkeypatch)
        scores.append([answer["score"] for answer in found])
        monkeypatch.undo()
    assert scores[0] != scores[1]


def test_the_cards_code_for_transformers_finds_the_entities_of_predict(release, monkeypatch):
    folder, row = release("named_entities"), {"words": TEXTS[0].split()}
    found = by_the_card(tasks.load(settings.load(), "named_entities"), row, folder, monkeypatch)
    [expected] = stand_alone.Model(folder, "onnx/model.onnx").predict([row])
    assert expected["entities"]
    assert [(entity["entity_group"], entity["word"]) for entity in found] == [
        (entity["type"], " ".join(entity["words"])) for entity in expected["entities"]
    ]
