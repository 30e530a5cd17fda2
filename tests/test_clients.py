"""Clients other than this project run the release folder and answer as PyTorch does."""

import functools
import json
import re
import shutil
import subprocess
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

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
