"""How a classifier of texts begins, if the checkpoint has no head for the task."""

import pytest
import tiny
import torch
from torch import nn

from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.models.families import FAMILIES, TEACHER_FAMILIES
from pipeline.tinybert.tasks.regression import Regression

TASK = tiny.task(["negative", "positive"], "accuracy")
WITH_TANH = [name for name, family in {**FAMILIES, **TEACHER_FAMILIES}.items() if family.tanh_layer]


def last_layer(model) -> nn.Linear:
    return getattr(model.classifier, "out_proj", model.classifier)


@pytest.mark.parametrize("family", WITH_TANH)
def test_a_new_classifier_reads_the_first_hidden_state_itself(tmp_path, family):
    tiny.write_family(tmp_path, family)
    model = TASK.load_model(tmp_path, seed=1).eval()
    ids = torch.tensor([[5, 6, 7, 8], [9, 8, 7, 6]])
    with torch.no_grad():
        first = model.base_model(input_ids=ids).last_hidden_state[:, 0]
        expected = last_layer(model)(torch.tanh(first))
        torch.testing.assert_close(model(input_ids=ids).logits, expected)


@pytest.mark.parametrize("family", WITH_TANH)
def test_a_trained_classifier_keeps_its_tanh_layer(tmp_path, family):
    tiny.write_family(tmp_path / "encoder", family)
    model = TASK.load_model(tmp_path / "encoder", seed=1)
    trained = model.get_submodule({**FAMILIES, **TEACHER_FAMILIES}[family].tanh_layer)
    nn.init.normal_(trained.weight)
    model.save_pretrained(tmp_path / "trained")
    tiny.tokenizer().save_pretrained(tmp_path / "trained")
    found = TASK.load_model(tmp_path / "trained").state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("family", WITH_TANH)
def test_after_similarity_the_tanh_layer_of_the_encoder_is_kept_and_one_of_the_head_begins_anew(tmp_path, family):
    tiny.write_family(tmp_path / "encoder", family)
    model = Regression("pearson", 16, None, ["similarity"]).load_model(tmp_path / "encoder")
    name = {**FAMILIES, **TEACHER_FAMILIES}[family].tanh_layer
    learned = model.get_submodule(name)
    nn.init.normal_(learned.weight)
    checkpoints.save(tmp_path / "learned", model.base_model, tiny.tokenizer())
    found = TASK.load_model(tmp_path / "learned").get_submodule(name)
    is_of_the_head = name.startswith("classifier")
    assert torch.equal(found.weight, torch.eye(len(found.weight)) if is_of_the_head else learned.weight)


@pytest.mark.parametrize("family", sorted({*FAMILIES, *TEACHER_FAMILIES} - {*WITH_TANH}))
def test_a_classifier_of_a_family_without_tanh_begins_as_the_library_makes_it(tmp_path, family):
    tiny.write_family(tmp_path, family)
    one, same, other = (TASK.load_model(tmp_path, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in one.state_dict().items())
    assert not torch.equal(last_layer(one).weight, last_layer(other).weight)
