"""The encoder as it came, and beside it a masked language model that may have trained."""

from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from tiny import run_stage, write_params
from transformers import AutoModel, AutoModelForMaskedLM, BertForMaskedLM


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


def test_weights_saved_from_a_wrapper_give_the_same_files_and_this_is_said_once(world, capfd):
    kept = [Path("models/pretrained", folder, "model.safetensors") for folder in ("encoder", "masked_language_model")]
    before = [file.read_bytes() for file in kept]
    file = Path("data/raw/encoder/checkpoint/model.safetensors")
    save_file({f"module.bert.{name}": weight for name, weight in load_file(file).items()}, file)
    run_stage("encoder")
    assert [file.read_bytes() for file in kept] == before
    line = "encoder.checkpoint: the names of the weights begin with 'module.', which is left out"
    assert capfd.readouterr().out.splitlines().count(line) == 1
