"""A task's model as an ONNX file: written, quantised, run by onnxruntime as it is where it is deployed."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.models.inference import Forward, last_layer_first_position_only

if TYPE_CHECKING:
    from pipeline.tinybert.tasks import Task

EXAMPLE = (2, 9)  # sequences, word-pieces: any will do, both are free in what is written


class _InOrder(nn.Module):
    """A model that takes its inputs in order, and gives its outputs so."""

    def __init__(self, model: nn.Module, inputs: list[str], outputs: list[str]):
        super().__init__()
        self.model, self.inputs, self.outputs = model, inputs, outputs

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        found = self.model(**dict(zip(self.inputs, inputs, strict=True)))
        return tuple(found[name] for name in self.outputs)


@torch.no_grad()
def write(path: Path, model: PreTrainedModel, task: Task, tokenizer, opset: int) -> None:
    """``model`` as ONNX: inputs as the tokenizer names them, (batch, sequence) both free; outputs as the library does.

    Of the last layer there is only what the task's head reads. Raises UserError if a weight is NaN or infinite.
    """
    if not all(weights.isfinite().all() for weights in model.parameters()):
        raise UserError(
            f"{model.name_or_path}: the model's weights are not finite (NaN or infinite): remove it and run"
            " `dvc repro`, or bring other weights if they are your own"
        )
    model.cpu().eval()
    inputs = list(tokenizer.model_input_names)
    values = {"input_ids": tokenizer.pad_token_id, "attention_mask": 1, "token_type_ids": 0}
    example = {name: torch.full(EXAMPLE, values[name]) for name in inputs}
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    outputs = list(model(**example))
    with last_layer_first_position_only(task, model), _quietly():
        program = torch.onnx.export(
            _InOrder(model, inputs, outputs),
            tuple(example.values()),
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes={"inputs": (free,) * len(inputs)},
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # the exporter's notes on itself, with paths of this machine
    program.save(path)


def quantise(path: Path, to: Path, per_channel: bool, reduce_range: bool) -> None:
    """Weights in int8, those of the embeddings too; activations are quantised as they come, each by its own range.

    per_channel: a scale for each output of a product. reduce_range: weights of 7 bits, as sums of 8 overflow on
    processors without instructions for them (AVX2, AVX-512 without VNNI).
    """
    with _quietly():
        quantize_dynamic(path, to, weight_type=QuantType.QInt8, per_channel=per_channel, reduce_range=reduce_range)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the libraries' notes to their own developers."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def session(path: Path, threads: int = 0) -> onnxruntime.InferenceSession:
    """The file, ready to run on the CPU; on so many threads, or, with 0, as many as there are cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # which would slow what runs beside it
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime has its own for each thing that can be wrong, and no public base of them
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path} cannot be loaded: {reason}: run `dvc repro` or `dvc pull`") from error


def onnx_forward(task: Task, path: Path) -> Forward:
    """A function from model inputs to class logits, computed by onnxruntime."""
    running = session(path)
    return lambda inputs: task.class_logits(run(running, inputs))


def run(running: onnxruntime.InferenceSession, inputs: dict[str, Tensor]) -> SimpleNamespace:
    """The model's outputs, each by the library's name."""
    names = [given.name for given in running.get_outputs()]
    outputs = running.run(names, {name: values.numpy() for name, values in inputs.items()})
    return SimpleNamespace(**{name: torch.from_numpy(values) for name, values in zip(names, outputs, strict=True)})
