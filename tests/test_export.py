"""The student as ONNX: it answers as PyTorch does, whatever the batch, or the stage fails and leaves what was there."""

import json
from pathlib import Path

import onnx
import pytest
import tiny
import torch
from tiny import run_stage
from transformers import AutoConfig

from pipeline.tinybert import tasks
from pipeline.tinybert.core import settings
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.data import rows
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.release import onnx_model


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def exported(name: str = "tiny"):
    """The task, and its student as PyTorch and as ONNX has it."""
    configuration = settings.load()
    task = tasks.load(configuration, name)
    return task, task.load_model(Path("models", name, "student")).eval(), Path("models", name, "onnx", "model.onnx")


@pytest.mark.parametrize("kind", tasks.KINDS)
def test_onnx_answers_as_the_model_whatever_the_batch_its_length_and_padding(exported_kind, batch, kind):
    exported_kind(kind)
    task, student, path = exported(kind)
    running = onnx_model.session(path, threads=1)
    for lengths, padding in [((5,), 0), ((1,), 0), ((12, 3, 7), 4), ((31, 31), 0)]:
        inputs = batch(lengths, padding)
        with torch.no_grad():
            expected = task.class_logits(student(**inputs))
        found = task.class_logits(onnx_model.run(running, inputs))
        kept = inputs["attention_mask"].bool() if found.size(1) > 1 else slice(None)
        torch.testing.assert_close(found[kept], expected[kept], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", tasks.KINDS)
def test_int8_is_scored_as_it_is_served(exported_kind, batch, kind):
    """One text at a time, and padding changes nothing."""
    exported_kind(kind)
    task, _, path = exported(kind)
    forward = onnx_model.onnx_forward(task, path.with_name("model_int8.onnx"))
    plain, padded = forward(batch((7,))), forward(batch((7,), padding=9))
    assert padded.size(1) in (1, 16)
    torch.testing.assert_close(padded[:, : plain.size(1)], plain, rtol=0, atol=0)


def test_the_report_has_the_scores_of_each_file_beside_pytorch_s(world):
    report = json.loads(Path("metrics/tiny/export.json").read_text())
    scores = json.loads(Path("metrics/tiny/scores.json").read_text())
    assert {**scores["student"], **report["pytorch"]} == {**report["pytorch"], **scores["student"]}
    assert report["word_pieces"] == len(checkpoints.tokenizer("models/tiny/student"))
    assert report["onnx"]["largest_difference"] < 1e-4 and report["onnx"]["equal_predictions"] == 1
    assert report["int8"]["largest_difference"] > report["onnx"]["largest_difference"]
    assert report["int8"]["accuracy"] == pytest.approx(report["pytorch"]["accuracy"], abs=0.2)
    sizes = {name: Path("models/tiny/onnx", name).stat().st_size for name in ("model.onnx", "model_int8.onnx")}
    assert sizes["model_int8.onnx"] < sizes["model.onnx"]
    assert report["onnx"]["megabytes"] == pytest.approx(sizes["model.onnx"] / 1e6, abs=0.05)


def test_the_files_tell_nothing_of_the_machine_that_made_them(world):
    for name in ("model.onnx", "model_int8.onnx"):
        made = Path("models/tiny/onnx", name).read_bytes()
        assert str(tiny.ROOT).encode() not in made and b"site-packages" not in made


@pytest.mark.parametrize("kind", ["text_classification", "named_entities"])
def test_fused_attention_changes_no_answer_of_a_kind(exported_kind, tmp_path, batch, both_int8, kind):
    exported_kind(kind)
    task, student, path = exported(kind)
    layers, fused, plain = both_int8(path, checkpoints.tokenizer(path.parent))
    assert layers == student.config.num_hidden_layers
    assert json.loads(Path("metrics", kind, "export.json").read_text())["int8"]["fused_layers"] == layers
    assert path.with_name("model_int8.onnx").read_bytes() == (tmp_path / "int8.onnx").read_bytes()
    for lengths, padding in [((5,), 0), ((1,), 0), ((31, 3, 7), 4)]:
        inputs = batch(lengths, padding)
        expected, found = (task.class_logits(onnx_model.run(model, inputs)) for model in (plain, fused))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_fused_file_that_answers_otherwise_is_not_kept(world, monkeypatch, tmp_path):
    path, fuse = Path("models/tiny/onnx/model.onnx"), onnx_model.fuse_attention

    def without_mask(content):
        fused, layers = fuse(content)
        model = onnx.load_from_string(fused)
        for node in model.graph.node:
            if node.op_type == "MultiHeadAttention":
                del node.input[3:]
        return model.SerializeToString(), layers

    monkeypatch.setattr(onnx_model, "fuse_attention", without_mask)
    tokenizer, config = checkpoints.tokenizer(path.parent), AutoConfig.from_pretrained(path.parent)
    to = tmp_path / "int8.onnx"
    assert onnx_model.quantise(path, to, config, tokenizer, per_channel=True, reduce_range=True) == 0
    assert b"MultiHeadAttention" not in to.read_bytes()


def test_a_model_with_local_attention_is_not_fused_though_short_texts_would_answer_alike(tmp_path, task):
    tiny.write_family(tmp_path, "modernbert")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "local_attention": 128}))  # as in the released models
    model, tokenizer = task.load_model(tmp_path).eval(), checkpoints.tokenizer(tmp_path)
    path, to, options = tmp_path / "model.onnx", tmp_path / "int8.onnx", {"per_channel": True, "reduce_range": True}
    onnx_model.write(path, model, task, tokenizer, 18)
    assert onnx_model.quantise(path, to, model.config, tokenizer, **options) == 0
    model.config.layer_types = ["full_attention"] * 4
    assert onnx_model.quantise(path, to, model.config, tokenizer, **options) == 4


def test_the_highest_opset_gives_files_that_load_and_answer_the_same(world, batch, task, tmp_path):
    model, tokenizer = task.load_model("models/tiny/student").eval(), checkpoints.tokenizer("models/tiny/student")
    highest = next(rule.le for rule in settings.Export.model_fields["opset"].metadata if hasattr(rule, "le"))
    path, inputs = tmp_path / "model.onnx", batch((7, 3))
    onnx_model.write(path, model, task, tokenizer, highest)
    onnx_model.quantise(path, tmp_path / "int8.onnx", model.config, tokenizer, per_channel=True, reduce_range=True)
    expected = model(**inputs).logits.detach()
    torch.testing.assert_close(onnx_model.run(onnx_model.session(path), inputs).logits, expected, atol=1e-5, rtol=0)
    assert onnx_model.run(onnx_model.session(tmp_path / "int8.onnx"), inputs).logits.isfinite().all()


def test_a_trimmed_vocabulary_is_smaller_and_answers_the_same_where_nothing_is_missing(world, teacher_not_exported):
    tiny.write_params(world / "params.yaml", **{"export.frequent_words": 3})
    run_stage("export")
    report = json.loads(Path("metrics/tiny/export.json").read_text())
    whole = report["whole_vocabulary"]
    assert report["word_pieces"] < whole["word_pieces"] == len(checkpoints.tokenizer("models/tiny/student"))
    assert report["pytorch"]["accuracy"] == pytest.approx(whole["pytorch"]["accuracy"], abs=0.1)
    task, student, _ = exported()
    shipped, tokenizer = task.load_model("models/tiny/onnx").eval(), checkpoints.tokenizer("models/tiny/onnx")
    assert shipped.config.vocab_size == len(tokenizer) == report["word_pieces"]
    text = next(rows.read("data/tiny/prepared/train.jsonl"))["text"]
    before = student(**checkpoints.tokenizer("models/tiny/student")(text, return_tensors="pt")).logits
    torch.testing.assert_close(shipped(**tokenizer(text, return_tensors="pt")).logits, before)
    run_stage("benchmark")
    run_stage("package")


def test_the_folder_has_what_a_reader_of_the_files_needs(world):
    tokenizer, ours = (checkpoints.tokenizer(f"models/tiny/{folder}") for folder in ("student", "onnx"))
    assert ours("a heartwarming film")["input_ids"] == tokenizer("a heartwarming film")["input_ids"]
    config = json.loads(Path("models/tiny/onnx/config.json").read_text())
    assert config["id2label"] == {"0": "negative", "1": "positive"}
    running = onnx_model.session(Path("models/tiny/onnx/model_int8.onnx"))
    assert {taken.name for taken in running.get_inputs()} == {"input_ids", "token_type_ids", "attention_mask"}
    assert [given.name for given in running.get_outputs()] == ["logits"]


@pytest.mark.parametrize("setting", ["largest_difference", "equal_predictions"])
def test_a_file_that_answers_otherwise_is_refused_and_what_was_there_stays(world, monkeypatch, setting):
    before = content(Path("models/tiny/onnx"))
    noisy = {"largest_difference": 0.01, "equal_predictions": 100.0}[setting]
    tiny.write_params(world / "params.yaml", **{"export.largest_difference": {0.01: 1e-3, 100.0: 1e9}[noisy]})
    plain = onnx_model.onnx_forward

    def inexact(*rest):
        forward = plain(*rest)
        return lambda inputs: forward(inputs) + torch.tensor([0, noisy])  # for one class of two

    exported = Path("models/tiny/onnx/model.onnx").read_bytes()
    monkeypatch.setattr(onnx_model, "write", lambda path, *rest: path.write_bytes(exported))  # which takes seconds
    monkeypatch.setattr(onnx_model, "onnx_forward", inexact)
    with pytest.raises(UserError, match=rf"ONNX outputs differ from PyTorch.*export\.{setting}"):
        run_stage("export")
    assert content(Path("models/tiny/onnx")) == before


def test_a_file_that_is_no_model_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(UserError, match=rf"{path} cannot be loaded: .*dvc pull"):
        onnx_model.session(path)
