"""In which numbers models compute, and by which kernels: float32 or bfloat16, torch's own products or oneDNN's."""

from functools import partial

import torch
from torch import Tensor, nn

BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")  # the last: of ARM


def computing(precision: str, device: torch.device) -> torch.autocast:
    """A context in which models compute in ``precision``; weights, losses and optimiser stay in float32.

    ``auto`` is bfloat16 where the processor has instructions for it: elsewhere that would be slower than float32.
    """
    bfloat16 = precision == "bfloat16" or (precision == "auto" and has_bfloat16(device))
    return torch.autocast(device.type, torch.bfloat16, enabled=bfloat16)


def has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return any(capabilities.get(name) for name in BFLOAT16_INSTRUCTIONS)


def frozen(model: nn.Module, precision: str) -> nn.Module:
    """``model``, changed into one that only computes, as fast as the processor can.

    The weights of its projections are in ``precision`` once and for all, where autocast would convert them for each
    batch, to the same numbers. On a CPU, oneDNN computes these products from weights that it has laid out for itself:
    MKL, which torch takes for float32, leaves AVX-512 alone on AMD's processors, and is half as fast there.
    """
    model.eval().requires_grad_(False)
    device = next(model.parameters()).device
    with computing(precision, device):
        lower = torch.is_autocast_enabled(device.type)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            if lower:
                module.to(torch.bfloat16)
            if _has_onednn(device, module.weight.dtype):
                packed = torch.ops.mkldnn._reorder_linear_weight(module.weight)
                module.forward = partial(_product, weight=packed, bias=module.bias, dtype=module.weight.dtype)
    return model


def _has_onednn(device: torch.device, dtype: torch.dtype) -> bool:
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    # Where we have measured it.
    return torch.cpu.get_capabilities()["architecture"] == "x86_64" and (dtype == torch.float32 or has_bfloat16(device))


def _product(states: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(states.to(dtype), weight, bias, "none", [], "")
