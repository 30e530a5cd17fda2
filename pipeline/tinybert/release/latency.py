"""How long models take to answer, measured side by side: all in turn, again and again, so that none has a quiet moment
of the machine for itself.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from pipeline.tinybert.release import onnx_model

WARM_UP = 3
Inputs = dict[str, Tensor]
Answer = Callable[[Inputs], object]


def random_inputs(tokenizer, batch_size: int, length: int) -> Inputs:
    """Word-pieces drawn at random: what a model computes depends on their number alone."""
    ids = torch.randint(len(tokenizer), (batch_size, length), generator=torch.Generator().manual_seed(0))
    known = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    return {name: known[name] for name in tokenizer.model_input_names}


def of_pytorch(model: nn.Module, threads: int) -> Answer:
    """As the library runs a model on the CPU."""
    model.eval()

    def answer(inputs: Inputs) -> object:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            return model(**inputs)

    return answer


def of_onnx(path: Path, threads: int) -> Answer:
    running = onnx_model.session(path, threads)
    names = [taken.name for taken in running.get_inputs()]
    return lambda inputs: running.run(None, {name: inputs[name].numpy() for name in names})


def measured(answers: dict[str, Answer], inputs: Inputs, runs: int, what: str) -> dict[str, dict[str, float]]:
    """Of each, the median and the 95th percentile of its times for ``inputs``, in milliseconds."""
    before, names, seconds = torch.get_num_threads(), list(answers), {name: [] for name in answers}
    try:
        for number in tqdm(range(WARM_UP + runs), desc=what, unit="round"):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:  # no model is always the next after the same other
                start = time.perf_counter()
                answers[name](inputs)
                if number >= WARM_UP:
                    seconds[name].append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(before)
    found = {name: np.percentile(times, [50, 95]) * 1000 for name, times in seconds.items()}
    return {name: {"p50": float(middle), "p95": float(high)} for name, (middle, high) in found.items()}


def operations(model: nn.Module, inputs: Inputs) -> int:
    """Floating-point operations of a forward, two for each multiplication, as torch counts them."""
    attends_by = model.config._attn_implementation
    model.set_attn_implementation("eager")  # whose products torch counts on every device
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.eval()(**inputs)
    finally:
        model.set_attn_implementation(attends_by)
    return counter.get_total_flops()


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, str | int]:
    """What the times are of."""
    return {
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": cores(),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def _processor() -> str:
    """The processor's name, which on Linux the library does not know."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text(encoding="utf-8").splitlines() if known.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
