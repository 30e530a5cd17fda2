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

from pipeline.tinybert.models.families import FAMILIES


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
def test_all_stages_run_with_an_encoder_of_another_family(tmp_path, monkeypatch, family):
    shutil.copy(tiny.ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    tiny.write_world(tmp_path)
    shutil.rmtree("data/raw/encoder/checkpoint")
    tiny.write_family(Path("data/raw/encoder/checkpoint"), family)
    for stage in (*tiny.COMMON, *tiny.PER_TASK):
        run_stage(stage)
    rows = [json.loads(line) for line in Path("data/tiny/augmented/rows.jsonl").read_text().splitlines()]
    texts = {row["text"] for row in rows if not row["variant"]}
    assert {row["text"] for row in rows if row["variant"]} - texts
    config = json.loads(Path("models/tiny/release/config.json").read_text())
    assert (config["model_type"], config.get("num_hidden_layers") or config["n_layers"]) == (family, 2)


def test_weights_saved_from_a_wrapper_give_the_same_files_and_this_is_said_once(world, capfd):
    kept = [Path("models/pretrained", folder, "model.safetensors") for folder in ("encoder", "masked_language_model")]
    before = [file.read_bytes() for file in kept]
    file = Path("data/raw/encoder/checkpoint/model.safetensors")
    save_file({f"module.bert.{name}": weight for name, weight in load_file(file).items()}, file)
    run_stage("encoder")
    assert [file.read_bytes() for file in kept] == before
    line = "encoder.checkpoint: the names of the weights begin with 'module.', which is left out"
    assert capfd.readouterr().out.splitlines().count(line) == 1
