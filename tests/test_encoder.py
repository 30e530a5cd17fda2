"""The encoder as it came, and beside it a masked language model that may have trained."""

import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from tiny import run_stage, write_params
from transformers import AutoModel, AutoModelForMaskedLM, BertForMaskedLM

from pipeline.tinybert import tasks
from pipeline.tinybert.core import settings
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.models.families import FAMILIES
from pipeline.tinybert.release import onnx_model


def weights(folder, loader=AutoModel) -> dict[str, torch.Tensor]:
    return loader.from_pretrained(folder).state_dict()


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_teacher_and_student_start_from_the_encoder_as_it_came_though_the_masked_language_model_trains(world):
    came, kept = weights("data/raw/encoder/checkpoint"), weights("models/pretrained/encoder")
    assert same(came, kept)
    trained = weights("models/pretrained/masked_language_model", AutoModelForMaskedLM)
    body = {name: trained[f"bert.{name}"] for name in came if not name.startswith("pooler.")}
    assert not same({name: came[name] for name in body}, body)


@pytest.mark.parametrize(("train", "stays"), [("if_missing", True), ("always", False)])
def test_a_checkpoint_with_a_head_trains_it_only_if_asked(world, train, stays):
    tiny.write_checkpoint(world / "data/raw/encoder/checkpoint", BertForMaskedLM)
    write_params(world / "params.yaml", **{"encoder.masked_language_model.train": train})
    run_stage("encoder")
    folders = "data/raw/encoder/checkpoint", "models/pretrained/masked_language_model"
    assert same(*(weights(folder, AutoModelForMaskedLM) for folder in folders)) == stays


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "bert"])
def test_all_stages_that_read_its_model_run_with_an_encoder_of_another_family(
    world, teacher_not_exported, batch, both_int8, family
):
    shutil.rmtree("data/raw/encoder/checkpoint")
    tiny.write_family(Path("data/raw/encoder/checkpoint"), family)
    for stage in ("encoder", *tiny.PER_TASK):
        if stage != "prepare":
            tiny.delete_outputs(stage)
            run_stage(stage)
    rows = [json.loads(line) for line in Path("data/tiny/augmented/rows.jsonl").read_text().splitlines()]
    texts = {row["text"] for row in rows if not row["variant"]}
    assert {row["text"] for row in rows if row["variant"]} - texts
    config = json.loads(Path("models/tiny/release/config.json").read_text())
    assert (config["model_type"], config.get("num_hidden_layers") or config["n_layers"]) == (family, 2)
    check_attention_is_fused_where_the_answers_stay(family, batch, both_int8)


def check_attention_is_fused_where_the_answers_stay(family: str, batch, both_int8) -> None:
    task, path = tasks.load(settings.load(), "tiny"), Path("models/tiny/onnx/model.onnx")
    model, tokenizer = task.load_model("models/tiny/student").eval(), checkpoints.tokenizer(path.parent)
    inputs = {name: batch((7, 3), 2)[name] for name in tokenizer.model_input_names}
    found = onnx_model.run(onnx_model.session(path), inputs).logits
    torch.testing.assert_close(found, model(**inputs).logits.detach(), atol=1e-5, rtol=0)
    layers, *files = both_int8(path, tokenizer)
    is_plain = family in ("modernbert", "mpnet")  # local attention; positions relative to one another
    assert layers == (0 if is_plain else model.config.num_hidden_layers)
    assert json.loads(Path("metrics/tiny/export.json").read_text())["int8"]["fused_layers"] == layers
    fused, plain = (onnx_model.run(file, inputs).logits for file in files)
    torch.testing.assert_close(fused, plain, atol=1e-4, rtol=0)


def test_weights_saved_from_a_wrapper_give_the_same_files_and_this_is_said_once(world, capfd):
    kept = [Path("models/pretrained", folder, "model.safetensors") for folder in ("encoder", "masked_language_model")]
    before = [file.read_bytes() for file in kept]
    file = Path("data/raw/encoder/checkpoint/model.safetensors")
    save_file({f"module.bert.{name}": weight for name, weight in load_file(file).items()}, file)
    run_stage("encoder")
    assert [file.read_bytes() for file in kept] == before
    line = "encoder.checkpoint: the names of the weights begin with 'module.', which is left out"
    assert capfd.readouterr().out.splitlines().count(line) == 1
