"""A GPU computes CUDA graphs, kernels and attention of its own; here they are compared with the plain ways.

Without a GPU, a stand-in replays recorded steps on the CPU, and the other comparisons are skipped. The tests need the
libraries of benchmarks/gpu.py only.
"""

import gc
import weakref

import gpu
import pytest
import torch

from pipeline.tinybert.distillation import losses
from pipeline.tinybert.models.attention import segments_of
from pipeline.tinybert.models.batches import Collator
from pipeline.tinybert.models.encoded_rows import EncodedRows
from pipeline.tinybert.models.precision import autocast
from pipeline.tinybert.training import cuda_graphs
from pipeline.tinybert.training.fine_tuning import LabelObjective
from pipeline.tinybert.training.loop import WEIGHTS, Run

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SHAPE = gpu.Shape(layers=2, hidden=52, heads=2, feed_forward=104)  # head size 26, as in TinyBERT4
TEACHER = gpu.Shape(layers=4, hidden=48, heads=2, feed_forward=96)
ROWS, STEPS = 100, 7  # 13 batches, two in a step: the last step has one batch, of four rows


# Recorded steps -------------------------------------------------------------------------------------------------------


class Recording:
    """A stand-in for `torch.cuda.CUDAGraph`. A replay computes the step again: from the memory of the inputs, into the
    memory of the outputs and gradients that it was recorded with. It overwrites the outputs of all other recordings,
    since they share their memory.
    """

    def __init__(self, step, inputs, gradients, all_recordings):
        self.step, self.inputs, self.gradients, self.all_recordings = step, inputs, dict(gradients), all_recordings
        before = [gradient.clone() for gradient in gradients.values()]
        with torch.random.fork_rng(devices=[]):
            self.outputs = step(inputs)
        for gradient, value in zip(gradients.values(), before, strict=True):
            gradient.copy_(value)  # a GPU computes nothing while it records
        all_recordings.append(self)

    def replay(self):
        for recording in self.all_recordings:
            for values in recording.outputs.values():
                values.zero_()
        now = {weight: weight.grad for weight in self.gradients}
        for weight, gradient in self.gradients.items():
            weight.grad = gradient
        for name, values in self.step(self.inputs).items():
            self.outputs[name].copy_(values)
        for weight, gradient in now.items():
            weight.grad = gradient


class WithoutGpu(cuda_graphs.Replayed):
    """``done``: whether it computed or recorded a batch, for each batch that it did not replay."""

    def __init__(self, step, model):
        super().__init__(step, model)
        self.done, self.recordings = [], []

    def computed(self, inputs):
        self.done.append("computed")
        return self.step(inputs)

    def record(self, inputs):
        self.done.append("recorded")
        own = {name: values.clone() for name, values in inputs.items()}
        recording = Recording(self.step, own, self.gradients, self.recordings)
        return cuda_graphs.Recorded(recording, recording.inputs, recording.outputs)


@pytest.fixture
def without_gpu(monkeypatch) -> type[WithoutGpu]:
    for name in ("Stream", "graph_pool_handle"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    return WithoutGpu


@pytest.fixture
def recorded_steps(request, monkeypatch):
    """``recorded_steps(True)``: training records its steps, on a GPU or with the stand-in."""

    def switch(on: bool) -> None:
        monkeypatch.setenv(cuda_graphs.VARIABLE, str(int(on)))
        if not torch.cuda.is_available():
            monkeypatch.setattr(cuda_graphs, "Replayed", request.getfixturevalue("without_gpu"))
            monkeypatch.setattr(cuda_graphs, "wanted", lambda device: on)

    return switch


class WeightedLabels(gpu.Prediction):
    """Fine-tuning with class weights."""

    name = "finetune_teacher"

    def parts(self):
        texts = gpu.random_texts(gpu.lengths_of("SST-2", ROWS), gpu.TINY_VOCABULARY)
        rows = EncodedRows.in_memory({"input_ids": texts, "labels": [number % 2 for number in range(ROWS)]})
        return LabelObjective(gpu.Task(), [0.5, 2.0]), self.student, rows, Collator(self.tokenizer)


def trained(kind, folder, monkeypatch) -> tuple[dict, dict, Run]:
    """The weights and teacher logits after three times the same steps with dropout, and the sums of the losses."""
    folder.mkdir()
    monkeypatch.chdir(folder)
    stage = kind(SHAPE, TEACHER, gpu.TINY_VOCABULARY, "SST-2")
    stage.make_rows(ROWS, 1, STEPS)
    run = stage.runs[8] = stage.start(8, accumulation=2)
    for _ in range(3):
        stage.train(8)
    return {**run.model.state_dict(), "logits": torch.tensor(stage.logits.values[0:ROWS])}, run.progress.sums, run


@pytest.mark.parametrize("kind", [gpu.Intermediate, gpu.Prediction, WeightedLabels], ids=lambda kind: kind.name)
def test_replayed_steps_give_the_same_bytes_as_computed_steps(kind, recorded_steps, monkeypatch, tmp_path):
    recorded_steps(True)
    replayed, replayed_losses, run = trained(kind, tmp_path / "replayed", monkeypatch)
    assert any(run.compute.recorded.values())
    recorded_steps(False)
    computed, computed_losses, run = trained(kind, tmp_path / "computed", monkeypatch)
    assert not isinstance(run.compute, cuda_graphs.Replayed)
    assert replayed_losses == computed_losses
    assert {name for name in computed if not torch.equal(computed[name], replayed[name])} == set()


def test_a_new_shape_is_computed_then_recorded_and_each_batch_has_its_own_gradients(without_gpu):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)

    def step(inputs):
        loss = model(inputs["rows"]).square().sum() / inputs["count"]
        loss.backward()
        return {"loss": loss.detach()}

    steps = without_gpu(step, model)
    for length in (2, 4, 2, 2, 4, 2):
        rows = torch.randn(length, 3)
        found = steps({"rows": rows, "count": torch.tensor(2.0)})["loss"]
        gradients = [weight.grad.clone() for weight in model.parameters()]
        model.zero_grad()
        expected = step({"rows": rows, "count": torch.tensor(2.0)})["loss"]
        assert torch.equal(found, expected)
        assert all(map(torch.equal, gradients, [weight.grad for weight in model.parameters()]))
        model.zero_grad()
    assert steps.done == ["computed", "computed", "recorded", "recorded"]


def test_gradients_of_several_batches_add_up_and_weighted_batches_are_another_shape(without_gpu):
    model = torch.nn.Linear(3, 1, bias=False)

    def step(inputs):
        (model(inputs["rows"]) * inputs.get(WEIGHTS, 1)).sum().backward()
        return {}

    steps = without_gpu(step, model)
    for _ in range(3):
        for weight in (1.0, 2.0):
            steps({"rows": torch.ones(2, 3), WEIGHTS: torch.tensor([weight])})
        assert model.weight.grad.tolist() == [[6.0] * 3]
        model.zero_grad()
    steps({"rows": torch.ones(2, 3)})
    assert steps.done == ["computed", "recorded", "computed"]


def test_outputs_of_a_replay_outlive_later_replays(without_gpu):
    steps = without_gpu(lambda inputs: {"double": 2 * inputs["rows"]}, torch.nn.Linear(1, 1))
    outputs = [steps({"rows": torch.full((length,), value)}) for value in (1.0, 2.0, 3.0) for length in (1, 2)]
    assert [found["double"].tolist() for found in outputs] == [
        [2.0], [2.0, 2.0], [4.0], [4.0, 4.0], [6.0], [6.0, 6.0],
    ]  # fmt: skip


def test_a_finished_run_frees_its_recorded_steps_and_optimizer(recorded_steps, monkeypatch, tmp_path):
    recorded_steps(True)
    monkeypatch.chdir(tmp_path)
    stage = gpu.Prediction(SHAPE, TEACHER, gpu.TINY_VOCABULARY, "SST-2")
    stage.make_rows(ROWS, 1, STEPS)
    run = stage.start(50, steps=2)
    memory = [weakref.ref(run.compute), weakref.ref(run.optimizer)]
    gc.disable()
    try:
        run.to_the_end()
        del run
        assert [reference() for reference in memory] == [None, None]
    finally:
        gc.enable()


# Kernels --------------------------------------------------------------------------------------------------------------


@on_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(3, 40, 768), (5, 7, 312), (3, 12, 40, 40), (2, 2, 1, 1), (4, 2, 130, 130)], ids=str)
def test_squared_errors_and_their_gradients_equal_the_cpus(shape, dtype):
    if not losses._triton_works():
        pytest.skip("needs a C compiler, for Triton")
    loss = losses.attention_loss if len(shape) == 4 else losses.hidden_loss
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(shape, generator=draw).to(dtype) for _ in range(2))
    length = shape[-2]
    mask = torch.arange(length) < torch.randint(1, length + 1, (shape[0], 1), generator=draw)
    found = {}
    for device in ("cpu", "cuda"):
        own = student.to(device).detach().requires_grad_()
        value = loss(own, teacher.to(device), mask.to(device))
        (3 * value).backward()
        found[device] = value.cpu(), own.grad.cpu()
    torch.testing.assert_close(found["cuda"], found["cpu"])


@on_gpu
@pytest.mark.parametrize("precision, tolerance", [("float32", 1e-4), ("bfloat16", 3e-2)])
@pytest.mark.parametrize("first_position", [False, True])
def test_attention_and_its_gradients_equal_the_cpus_for_any_head_size_and_padding(first_position, precision, tolerance):
    ids = torch.randint(5, gpu.TINY_VOCABULARY, (4, 19), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(19) < torch.tensor([[19], [3], [11], [1]])).long()
    model = gpu.classifier(SHAPE, gpu.TINY_VOCABULARY).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "self" in name:
                weight *= 8  # with small scores, all positions get the same attention
    found = {}
    for device, attention in (("cpu", "eager"), ("cuda", "tinybert")):
        model.to(device).zero_grad()
        model.set_attn_implementation(attention)
        narrow = gpu.first_position_only(model) if first_position and device == "cuda" else gpu.nullcontext()
        with narrow, autocast(precision if device == "cuda" else "float32", torch.device(device)):
            logits = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
        logits.float().square().sum().backward()
        gradients = torch.cat([weight.grad.flatten() for weight in model.parameters()])
        found[device] = logits.detach().float().cpu(), gradients.cpu()
    for ours, plain in zip(found["cuda"], found["cpu"], strict=True):
        assert (ours - plain).norm() <= tolerance * plain.norm()


def test_each_sequence_and_its_padding_are_two_segments():
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0]]).bool()
    assert segments_of(mask).tolist() == [0, 2, 3, 6, 6, 7, 9]
