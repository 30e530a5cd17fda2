import pytest
import tiny
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from pipeline.tinybert import models, precision
from pipeline.tinybert.precision import computing, frozen

CPU = torch.device("cpu")
ONEDNN = precision._has_onednn(CPU, torch.float32)


@pytest.mark.parametrize("instructions", ["avx512_bf16", "amx_bf16", None])
def test_automatic_precision_is_bfloat16_where_the_processor_has_instructions_for_it(instructions, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, instructions: True})

    def is_bfloat16(precision):
        with computing(precision, torch.device("cpu")):
            return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16

    assert is_bfloat16("auto") == bool(instructions)
    assert is_bfloat16("bfloat16")
    assert not is_bfloat16("float32")


def classifier(family: str = "bert") -> nn.Module:
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(tiny.config(family=family, layers=2)).train()


@pytest.fixture
def by_torch(monkeypatch) -> list[torch.dtype]:
    """What torch's own products compute in, a type for each of them."""
    used, linear = [], nn.functional.linear

    def watched(values, *rest):
        used.append(values.dtype)
        return linear(values, *rest)

    monkeypatch.setattr(nn.functional, "linear", watched)
    return used


@pytest.mark.parametrize("family", models.FAMILIES)
@pytest.mark.parametrize("numbers", ["float32", "bfloat16"])
def test_a_frozen_model_answers_as_the_model_does(numbers, family, batch, by_torch):
    plain, inputs = classifier(family).eval(), batch([9, 5], padding=3)
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad(), computing(numbers, CPU):
        expected = plain(**inputs).logits
        products = len(by_torch)
        model = frozen(classifier(family), numbers)
        logits = model(**inputs).logits
    tolerance = {"atol": 1e-6, "rtol": 1e-5} if numbers == "float32" else {"atol": 1e-2, "rtol": 0}
    torch.testing.assert_close(logits, expected, **tolerance)
    assert products == 14 and len(by_torch) == products + (0 if faster(numbers) else 14)
    assert not model.training and not any(weights.requires_grad for weights in model.parameters())


def faster(numbers: str) -> bool:
    return ONEDNN and (numbers == "float32" or precision.has_bfloat16(CPU))


def test_a_frozen_model_answers_to_any_part_of_a_batch_of_states():
    """Of one row, of one position of each, without a bias."""
    for bias in (True, False):
        plain = nn.Linear(16, 8, bias=bias)
        laid_out = frozen(nn.Sequential(plain), "float32")
        states = torch.rand(4, 6, 16)
        for part in (states, states[:, :1], states[1], states[:, 2], states.transpose(0, 1)):
            expected = nn.functional.linear(part, plain.weight, plain.bias)
            torch.testing.assert_close(laid_out(part), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("without", ["oneDNN", "a processor on which it was measured"])
def test_where_onednn_is_not_at_hand_torch_computes(without, monkeypatch, by_torch):
    if without == "oneDNN":
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "aarch64", "bf16": True})
    for numbers in ("float32", "bfloat16"):
        with torch.no_grad(), computing(numbers, CPU):
            frozen(nn.Sequential(nn.Linear(16, 8)), numbers)(torch.rand(2, 16))
    assert len(by_torch) == 2


def test_bfloat16_is_not_handed_to_onednn_where_the_processor_has_no_instructions_for_it(monkeypatch, by_torch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64", "avx2": True})
    with torch.no_grad(), computing("bfloat16", CPU):
        model = frozen(nn.Sequential(nn.Linear(16, 8)), "bfloat16")
        assert model(torch.rand(2, 16)).dtype == torch.bfloat16
    assert len(by_torch) == 1 and model[0].weight.dtype == torch.bfloat16
