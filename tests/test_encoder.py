"""The encoder as it came, and beside it a masked language model that may have trained."""

import pytest
import tiny
import torch
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
