import pytest
import tiny
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from pipeline.tinybert.models import checkpoints, precision
from pipeline.tinybert.models.families import FAMILIES
from pipeline.tinybert.models.precision import autocast, to_inference

CPU = torch.device("cpu")


@pytest.mark.parametrize("instructions", ["avx512_bf16", "amx_bf16", None])
def test_auto_is_bfloat16_if_the_processor_has_instructions_for_it(instructions, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, instructions: True})

    def is_bfloat16(precision):
        with autocast(precision, torch.device("cpu")):
            return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16

    assert is_bfloat16("auto") == bool(instructions)
    assert is_bfloat16("bfloat16")
    assert not is_bfloat16("float32")


def loaded(folder) -> nn.Module:
    """A model in training mode; noise makes its biases differ from 0 and its LayerNorm weights from 1."""
    model = checkpoints.load(AutoModelForSequenceClassification, folder).train()
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weights in model.parameters():
            weights += 0.1 * torch.randn(weights.shape, generator=noise)
    return model


@pytest.fixture
def by_torch(monkeypatch) -> list[torch.dtype]:
    """The dtype of each call of torch's own linear function."""
    used, linear = [], nn.functional.linear

    def watched(values, *rest):
        used.append(values.dtype)
        return linear(values, *rest)

    monkeypatch.setattr(nn.functional, "linear", watched)
    return used


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("numbers", ["float32", "bfloat16"])
def test_an_inference_only_model_has_the_same_logits(numbers, family, batch, tmp_path, by_torch):
    tiny.write_family(tmp_path, family)
    plain, inputs = loaded(tmp_path).eval(), batch([9, 5], padding=3)
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad(), autocast(numbers, CPU):
        expected = plain(**inputs).logits
        linear_calls = len(by_torch)
        model = to_inference(loaded(tmp_path), numbers, CPU)
        logits = model(**inputs).logits
    assert plain.config.model_type == family and expected.abs().min() > 0.01
    tolerance = {"atol": 1e-5, "rtol": 1e-5} if numbers == "float32" else {"atol": 1e-2, "rtol": 1e-2}
    torch.testing.assert_close(logits, expected, **tolerance)
    by_onednn = precision._onednn_is_faster(CPU, getattr(torch, numbers))
    assert linear_calls > 10 and len(by_torch) == linear_calls * (1 if by_onednn else 2)
    assert not model.training and not any(weights.requires_grad for weights in model.parameters())


def test_weights_on_another_device_keep_their_layout():
    """The meta device stands in for a GPU: its weights are not converted to the CPU's layout."""
    device = torch.device("meta")
    model = to_inference(nn.Sequential(nn.Linear(16, 8)), "float32", device)
    assert model[0].weight.device == device and model(torch.rand(2, 16, device=device)).device == device


def test_an_inference_only_layer_takes_inputs_of_any_shape():
    """A whole batch, one position or one row of it, and a transposed view; with a bias and without."""
    for bias in (True, False):
        plain = nn.Linear(16, 8, bias=bias)
        laid_out = to_inference(nn.Sequential(plain), "float32", CPU)
        states = torch.rand(4, 6, 16)
        for part in (states, states[:, :1], states[1], states[:, 2], states.transpose(0, 1)):
            expected = nn.functional.linear(part, plain.weight, plain.bias)
            torch.testing.assert_close(laid_out(part), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("missing", ["oneDNN", "x86"])
def test_without_onednn_or_x86_torchs_own_kernels_are_used(missing, monkeypatch, by_torch):
    if missing == "oneDNN":
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "aarch64", "bf16": True})
    for numbers in ("float32", "bfloat16"):
        with torch.no_grad(), autocast(numbers, CPU):
            to_inference(nn.Sequential(nn.Linear(16, 8)), numbers, CPU)(torch.rand(2, 16))
    assert len(by_torch) == 2


def test_bfloat16_without_processor_support_uses_torchs_own_kernels(monkeypatch, by_torch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64", "avx2": True})
    with torch.no_grad(), autocast("bfloat16", CPU):
        model = to_inference(nn.Sequential(nn.Linear(16, 8)), "bfloat16", CPU)
        assert model(torch.rand(2, 16)).dtype == torch.bfloat16
    assert len(by_torch) == 1 and model[0].weight.dtype == torch.bfloat16
