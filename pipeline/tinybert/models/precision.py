"""Numerical precision of models (float32 or bfloat16), and the fastest kernels for inference."""

import os
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)
BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")  # x86, x86, ARM
# Use huge pages; this must be set before torch first allocates memory. Each step allocates tens of megabytes for the
# gradient of the word embeddings, and with small pages this took a fifth of the step.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """A context in which models compute in ``precision``. Weights, losses and optimizer stay in float32.

    ``auto`` is bfloat16 if the processor has instructions for it (without them it is slower than float32), else
    float32.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=_is_bfloat16(precision, device))


def name_of(precision: str, device: torch.device) -> str:
    """The precision in which models compute: bfloat16 or float32."""
    return "bfloat16" if _is_bfloat16(precision, device) else "float32"


def _is_bfloat16(precision: str, device: torch.device) -> bool:
    return precision == "bfloat16" or (precision == "auto" and has_bfloat16(device))


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return any(capabilities.get(name) for name in BFLOAT16_INSTRUCTIONS)


def to_inference(model: Model, precision: str, device: torch.device) -> Model:
    """Move ``model`` to ``device`` and make it inference-only, for speed. Changes and returns ``model`` itself.

    The weights of linear layers are converted to ``precision`` once; autocast would convert them for every batch, with
    the same result. On a CPU, oneDNN computes these layers from weights in its own layout. (torch's default for
    float32, MKL, does not use AVX-512 on AMD processors, and is half as fast there.) Afterwards the model must not be
    copied, moved or loaded into.
    """
    model.to(device).eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            if _is_bfloat16(precision, device):
                module.to(torch.bfloat16)
            if _onednn_is_faster(device, module.weight.dtype):
                packed = torch.ops.mkldnn._reorder_linear_weight(module.weight)
                linear = partial(_linear, weight=packed, bias=module.bias, dtype=module.weight.dtype)
                module.forward = linear  # type: ignore[method-assign]
    return model


def _onednn_is_faster(device: torch.device, dtype: torch.dtype) -> bool:
    """True on x86; measured there with AVX2 and with AVX-512."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    supported = dtype == torch.float32 or (dtype == torch.bfloat16 and has_bfloat16(device))
    return supported and torch.cpu.get_capabilities()["architecture"] == "x86_64"


def _linear(states: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(states.to(dtype), weight, bias, "none", [], "")
