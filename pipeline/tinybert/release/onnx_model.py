"""Write a task's model as an ONNX file, quantise it, and run it with onnxruntime."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import onnx
import onnxruntime
import torch
from onnx.external_data_helper import set_external_data
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedModel

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.models.families import local_layers
from pipeline.tinybert.models.inference import Forward, last_layer_first_position_only

if TYPE_CHECKING:
    from pipeline.tinybert.tasks import Task

SMALL = 1024  # bytes: weights up to this size stay in a file that `second_name` writes
PADDING_MASK = 4  # the place of this input of MultiHeadAttention
EXAMPLE_LENGTH, MUCH_LESS = 40, 0.1
EXAMPLE = (2, 9)  # sequences, word pieces: any numbers will do, because both dimensions are dynamic in the file


class _WithPositionalInputs(nn.Module):
    """A model with positional inputs and a tuple of outputs, as the ONNX exporter needs it."""

    def __init__(self, model: nn.Module, inputs: list[str], outputs: list[str]):
        super().__init__()
        self.model, self.inputs, self.outputs = model, inputs, outputs

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model(**dict(zip(self.inputs, inputs, strict=True)))
        return tuple(outputs[name] for name in self.outputs)


@torch.no_grad()
def write(path: Path, model: PreTrainedModel, task: Task, tokenizer, opset: int) -> None:
    """Write ``model`` as ONNX. Inputs (batch, sequence), both dimensions dynamic, have the tokenizer's names; outputs
    have the names of the transformers library. The file computes only the part of the last layer that the head reads.

    Raises UserError if a weight is NaN or infinite.
    """
    check_weights(model)
    model.cpu().eval()
    inputs = list(tokenizer.model_input_names)
    values = {"input_ids": tokenizer.pad_token_id, "attention_mask": 1, "token_type_ids": 0}
    example = {name: torch.full(EXAMPLE, values[name]) for name in inputs}
    dynamic = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    outputs = list(model(**example))
    with last_layer_first_position_only(task, model), _quietly():
        program = torch.onnx.export(
            _WithPositionalInputs(model, inputs, outputs),
            tuple(example.values()),
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes={"inputs": (dynamic,) * len(inputs)},
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # the exporter's debugging data, with paths of this machine
    program.save(path)


def check_weights(model: PreTrainedModel) -> None:
    """Raise UserError if a weight is NaN or infinite."""
    if not all(weights.isfinite().all() for weights in model.parameters()):
        raise UserError(
            f"{model.name_or_path}: the model's weights are not finite (NaN or infinite): remove it and run"
            " `dvc repro`, or bring other weights if they are your own"
        )


def quantise(path: Path, to: Path, config: Any, tokenizer, per_channel: bool, reduce_range: bool) -> int:
    """Quantise the file of a model with this ``config`` dynamically: weights and embeddings are stored in int8; each
    activation tensor is quantised at run time by its own range. Attention is fused (`fuse_attention`) if no layer has
    local attention, and the answers stay the same. Returns the number of layers with fused attention.

    per_channel: one scale for each output of a matrix product. reduce_range: weights of 7 bits, because sums of 8-bit
    products overflow on processors without VNNI (AVX2, older AVX-512).
    """
    with _quietly():
        quantize_dynamic(path, to, weight_type=QuantType.QInt8, per_channel=per_channel, reduce_range=reduce_range)
    if local_layers(config):  # short texts would answer alike, long ones would not
        return 0
    fused, layers = fuse_attention(to.read_bytes())
    if not layers or not _answers_stay(path, to, fused, tokenizer):
        return 0
    to.write_bytes(fused)
    return layers


def fuse_attention(content: bytes) -> tuple[bytes, int]:
    """An ONNX file in which one operator of onnxruntime, MultiHeadAttention, computes the attention of a layer; and the
    number of these operators: 0 if onnxscript does not find attention of this form.

    Each operator gets the mask of padding (B, S), which is faster than the exporter's mask (B, 1, S, S). This is wrong
    for a model with local attention.
    """
    from onnxscript import ir, optimizer  # slow to import, and `package` does not need it
    from onnxscript.rewriter.ort_fusions import optimize_for_ort

    with _quietly():
        model, _ = optimize_for_ort(ir.from_proto(onnx.load_from_string(content)), clear_metadata=True)
    fused = [node for node in model.graph if node.op_type == "MultiHeadAttention"]
    if fused:
        mask = next(value for value in model.graph.inputs if value.name == "attention_mask")
        cast = ir.node("Cast", [mask], {"to": ir.DataType.INT32})
        model.graph.insert_before(model.graph[0], cast)
        for node in fused:
            node.resize_inputs(PADDING_MASK + 1)  # without the exporter's mask, which comes after it
            node.replace_input_with(PADDING_MASK, cast.outputs[0])
        optimizer.remove_unused_nodes(model)
    return ir.to_proto(model).SerializeToString(deterministic=True), len(fused)


def _answers_stay(exact: Path, plain: Path, fused: bytes, tokenizer) -> bool:
    """Whether fusing changes the answers for random texts, one of them padded, much less than quantising does."""
    count, length = 2, min(EXAMPLE_LENGTH, tokenizer.model_max_length)
    ids = torch.randint(len(tokenizer), (count, length), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, length // 2 :] = 0
    known = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    inputs = {name: known[name] for name in tokenizer.model_input_names}
    outputs = [vars(run(session(model), inputs)).values() for model in (exact, plain, fused)]
    of_exact, of_plain, of_fused = (torch.cat([values.flatten() for values in found]) for found in outputs)
    return bool((of_fused - of_plain).abs().mean() <= MUCH_LESS * (of_exact - of_plain).abs().mean())


def second_name(path: Path, to: Path) -> None:
    """Write a small file ``to`` that runs the quantised model ``path``. Both must stay in the same folder: the weights
    of ``to`` are bytes of ``path`` (ONNX's external data).
    """
    content = path.read_bytes()
    model = onnx.load_from_string(content)
    for weights in model.graph.initializer:
        data = weights.raw_data
        if weights.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8) and len(data) > SMALL:  # any alignment
            set_external_data(weights, path.name, content.find(data), len(data))
            weights.ClearField("raw_data")
    to.write_bytes(model.SerializeToString(deterministic=True))


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Silence the warnings that libraries address to their own developers."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def session(path: Path | bytes, threads: int = 0) -> onnxruntime.InferenceSession:
    """The file or its content, ready to run on the CPU on ``threads`` threads; 0: one for each core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning threads slow other programs
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no public base class
        reason = str(error).strip().splitlines()[0]
        file = "the ONNX model" if isinstance(path, bytes) else path
        raise UserError(f"{file} cannot be loaded: {reason}: run `dvc repro` or `dvc pull`") from error


def onnx_forward(task: Task, path: Path) -> Forward:
    """A function from model inputs to class logits, computed by onnxruntime.

    A single sequence is computed without padding, as it is served: padding would change the scales of an int8 model.
    """
    open_session = session(path)

    def forward(inputs: dict[str, Tensor]) -> Tensor:
        mask = inputs["attention_mask"]
        if len(mask) > 1:
            return task.class_logits(run(open_session, inputs))
        length = int(mask.sum())
        logits = task.class_logits(run(open_session, {name: values[:, :length] for name, values in inputs.items()}))
        return logits if logits.size(1) == 1 else pad(logits, (0, 0, 0, mask.size(1) - length))

    return forward


def run(open_session: onnxruntime.InferenceSession, inputs: dict[str, Tensor]) -> SimpleNamespace:
    """The model's outputs, by the names of the transformers library."""
    names = [output.name for output in open_session.get_outputs()]
    outputs = open_session.run(names, {name: values.numpy() for name, values in inputs.items()})
    return SimpleNamespace(**{name: torch.from_numpy(values) for name, values in zip(names, outputs, strict=True)})
