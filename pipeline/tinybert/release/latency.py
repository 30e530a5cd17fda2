"""Latency of models, measured side by side.

In each round every model runs once, so that a busy or quiet moment of the machine affects all models alike.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from pipeline.tinybert.core import launch
from pipeline.tinybert.models.precision import has_bfloat16
from pipeline.tinybert.release import onnx_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WARM_UP = 1  # rounds before the measured ones
LEAST_RUNS = 3  # of each model, however long they take
Inputs = dict[str, Tensor]
Run = Callable[[Inputs], object]


def random_inputs(tokenizer, batch_size: int, length: int) -> Inputs:
    """Random word pieces (B, S): latency depends only on their number."""
    ids = torch.randint(len(tokenizer), (batch_size, length), generator=torch.Generator().manual_seed(0))
    known = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    return {name: known[name] for name in tokenizer.model_input_names}


def pytorch_runner(model: nn.Module, threads: int) -> Run:
    """A function that runs the model in PyTorch on ``threads`` threads."""
    model.eval()

    def run(inputs: Inputs) -> object:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            return model(**inputs)

    return run


def onnx_runner(path: Path, threads: int) -> Run:
    """A function that runs an ONNX file in onnxruntime on ``threads`` threads."""
    session = onnx_model.session(path, threads)
    names = [argument.name for argument in session.get_inputs()]
    return lambda inputs: session.run(None, {name: inputs[name].numpy() for name in names})


def openvino_is_installed() -> bool:
    return importlib.util.find_spec("openvino") is not None


def openvino_runner(path: Path, threads: int) -> Run:
    """A function that runs an ONNX file in OpenVINO on ``threads`` threads, in float32."""
    import openvino  # optional

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    request = compiled.create_infer_request()
    names = [argument.get_any_name() for argument in compiled.inputs]
    return lambda inputs: request.infer({name: inputs[name].numpy() for name in names})


def measure(models: dict[str, Run], inputs: dict[str, Inputs], limit: float, title: str) -> dict[str, dict[str, float]]:
    """Model → p50 and p95 of its runs on its ``inputs``, in milliseconds. The measured rounds end after ``limit``
    seconds, or ``LEAST_RUNS`` rounds if these take longer. ``title``: of the progress bar.
    """
    before, names = torch.get_num_threads(), list(models)
    runs: dict[str, list[float]] = {name: [] for name in models}  # their seconds
    try:
        with tqdm(desc=title, unit="round") as progress:
            for number in itertools.count():
                turn = number % len(names)
                for name in names[turn:] + names[:turn]:  # each round starts with another model
                    start = time.perf_counter()
                    models[name](inputs[name])
                    if number >= WARM_UP:
                        runs[name].append(time.perf_counter() - start)
                progress.update()
                if len(runs[names[0]]) >= LEAST_RUNS and sum(map(sum, runs.values())) >= limit:
                    break
    finally:
        torch.set_num_threads(before)
    percentiles = {name: np.percentile(seconds, [50, 95]) * 1000 for name, seconds in runs.items()}
    return {name: {"p50": float(p50), "p95": float(p95)} for name, (p50, p95) in percentiles.items()}


def operations(model: PreTrainedModel, inputs: Inputs) -> int:
    """Floating-point operations of a forward, counted by torch: two for each multiply-add."""
    implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")  # torch cannot count the operations of a fused kernel on every device
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.eval()(**inputs)
    finally:
        model.set_attn_implementation(implementation)
    return counter.get_total_flops()


def cores() -> int:
    """The number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, str | int | bool | None]:
    """Processor, GPU and versions of libraries: where they are the same, training gives the same bytes."""
    device = launch.device()
    return {
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "bfloat16": has_bfloat16(device),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def _processor() -> str:
    """The processor's name. On Linux ``platform.processor`` does not know it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
