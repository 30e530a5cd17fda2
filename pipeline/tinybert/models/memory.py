"""Check that a model fits into memory, before it is loaded."""

import math
from pathlib import Path

import psutil
import torch

from pipeline.tinybert.core import launch
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.models import weights

# Bytes for each parameter: its float32 value; in training also its gradient and the optimizer's two means.
LOADED, TRAINED = 4, 16
GB = 1e9


def check(folder: Path, key: str, is_trained: bool) -> None:
    """Raise UserError, which names the setting ``key``, if the model in ``folder`` needs more memory than is free."""
    parameters = sum(math.prod(shape) for shape in weights.shapes(folder).values())
    needed, free = parameters * (TRAINED if is_trained else LOADED), available()
    if needed > free:
        what = "to train it" if is_trained else "to load it"
        raise UserError(
            f"{key}: the model has {parameters / 1e6:.0f} M parameters: {what} takes {needed / GB:.1f} GB of memory and"
            f" more for a batch, but {free / GB:.1f} GB are free: end other programs, choose a smaller model, or give"
            " its answers in a file (finetune_teacher.predictions)"
        )


def available() -> int:
    """Bytes of memory that are free on the device where models run."""
    if launch.device().type == "cuda":
        return torch.cuda.mem_get_info()[0]
    return psutil.virtual_memory().available
