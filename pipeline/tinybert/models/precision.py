"""In which numbers models compute, by which kernels, in which memory."""

import os
from functools import partial

import torch
from torch import Tensor, nn

BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")  # the last: of ARM
# Huge pages, before torch first asks for memory: the gradient of the word embeddings, tens of megabytes anew in each
# step, came a small page at a time, and that took a fifth of the step.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """A context in which models compute in ``precision``; weights, losses and optimiser stay in float32.

    ``auto`` is bfloat16 where the processor has instructions for it: elsewhere that would be slower than float32.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=_is_bfloat16(precision, device))


def _is_bfloat16(precision: str, device: torch.device) -> bool:
    return precision == "bfloat16" or (precision == "auto" and has_bfloat16(device))


def has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return any(capabilities.get(name) for name in BFLOAT16_INSTRUCTIONS)


def to_inference(model: nn.Module, precision: str, device: torch.device) -> nn.Module:
    """``model``, moved to ``device`` and changed into one that only computes, as fast as it can there.

    The weights of its projections are in ``precision`` once and for all, where autocast would convert them for each
    batch, to the same numbers. On a CPU, oneDNN computes these products from weights that it has laid out for itself:
    MKL, which torch takes for float32, leaves AVX-512 alone on AMD's processors, and is half as fast there. So the
    model cannot be copied, moved or loaded into again.
    """
    model.to(device).eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            if _is_bfloat16(precision, device):
                module.to(torch.bfloat16)
            if _onednn_is_faster(device, module.weight.dtype):
                packed = torch.ops.mkldnn._reorder_linear_weight(module.weight)
                module.forward = partial(_product, weight=packed, bias=module.bias, dtype=module.weight.dtype)
    return model


def _onednn_is_faster(device: torch.device, dtype: torch.dtype) -> bool:
    """On x86, where it was measured, with AVX2 and with AVX-512."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    computes = dtype == torch.float32 or (dtype == torch.bfloat16 and has_bfloat16(device))
    return computes and torch.cpu.get_capabilities()["architecture"] == "x86_64"


def _product(states: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(states.to(dtype), weight, bias, "none", [], "")
