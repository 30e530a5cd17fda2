"""What a GPU computes in a way of its own, against the plain way; without a GPU, what of it needs none.

Needs of the libraries what benchmarks/gpu.py needs.
"""

from functools import partial

import gpu
import pytest
import torch

from pipeline.tinybert.distillation import losses
from pipeline.tinybert.models.attention import segments_of
from pipeline.tinybert.models.precision import autocast
from pipeline.tinybert.training import cuda_graphs

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SHAPE = gpu.Shape(layers=2, hidden=52, heads=2, feed_forward=104)  # heads of 26, as TinyBERT4's
TEACHER = gpu.Shape(layers=4, hidden=48, heads=2, feed_forward=96)
ROWS, STEPS = 100, 7  # of 13 batches, two a step: the last step has one, of four rows
KINDS = [gpu.Intermediate, gpu.Prediction]


def trained(kind, monkeypatch, folder, **changes) -> tuple[dict, list[float]]:
    """What three runs make of a student with dropout, and their mean losses."""
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    stage = kind(SHAPE, TEACHER, gpu.TINY_VOCABULARY, "SST-2")
    stage.take(ROWS, 1, STEPS)
    stage.arguments = partial(stage.arguments, gradient_accumulation_steps=2)
    trainer = stage.trainer(8)
    with stage.reading():
        train_losses = [trainer.train().training_loss for _ in range(3)]
    if kind is gpu.Intermediate:
        trainer.keep.take()
    recorded = trainer.replayed is not None and any(trainer.replayed.recorded.values())
    assert recorded == (changes[cuda_graphs.VARIABLE] == "1")
    kept = {**trainer.model.state_dict(), "logits": torch.tensor(stage.logits.values.read(0, ROWS))}
    return kept, train_losses


@on_gpu
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_replayed_steps_end_with_the_bytes_of_computed_ones(kind, monkeypatch, tmp_path):
    replayed, their_losses = trained(kind, monkeypatch, tmp_path / "replayed", **{cuda_graphs.VARIABLE: "1"})
    computed, losses_of_steps = trained(kind, monkeypatch, tmp_path / "computed", **{cuda_graphs.VARIABLE: "0"})
    assert their_losses == losses_of_steps
    assert {name for name in computed if not torch.equal(computed[name], replayed[name])} == set()


@on_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(3, 40, 768), (5, 7, 312), (3, 12, 40, 40), (2, 2, 1, 1), (4, 2, 130, 130)], ids=str)
def test_a_gpus_squared_errors_and_their_gradients_are_those_of_a_cpu(shape, dtype):
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
def test_a_gpus_attention_is_that_of_a_cpu_whatever_the_size_of_heads(first_position, precision, tolerance):
    """And so are the gradients, whatever is padded."""
    ids = torch.randint(5, gpu.TINY_VOCABULARY, (4, 19), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(19) < torch.tensor([[19], [3], [11], [1]])).long()
    model = gpu.classifier(SHAPE, gpu.TINY_VOCABULARY).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "self" in name:
                weight *= 8  # else it makes little difference what is attended to
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


def test_padding_is_a_segment_of_its_own():
    kept = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0]]).bool()
    assert segments_of(kept).tolist() == [0, 2, 3, 6, 6, 7, 9]


class Recording:
    """In place of a GPU's: a replay computes the step again, from the memory where its inputs were as it was recorded
    into that of its outputs and gradients.
    """

    def __init__(self, step, inputs, gradients):
        self.step, self.inputs, self.gradients = step, inputs, dict(gradients)
        before = [gradient.clone() for gradient in gradients.values()]
        self.outputs = step(inputs)
        for gradient, value in zip(gradients.values(), before, strict=True):
            gradient.copy_(value)  # a GPU computes nothing as it records

    def replay(self):
        now = {weight: weight.grad for weight in self.gradients}
        for weight, gradient in self.gradients.items():
            weight.grad = gradient
        for name, values in self.step(self.inputs).items():
            self.outputs[name].copy_(values)
        for weight, gradient in now.items():
            weight.grad = gradient


class WithoutGpu(cuda_graphs.Replayed):
    """``done`` has what it did with each batch that it did not replay."""

    def __init__(self, step, model):
        super().__init__(step, model)
        self.done = []

    def computed(self, inputs):
        self.done.append("computed")
        return self.step(inputs)

    def record(self, inputs):
        self.done.append("recorded")
        recording = Recording(self.step, {name: values.clone() for name, values in inputs.items()}, self.gradients)
        return cuda_graphs.Recorded(recording, recording.inputs, recording.outputs)


@pytest.fixture
def without_gpu(monkeypatch) -> type[WithoutGpu]:
    for name in ("Stream", "graph_pool_handle"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    return WithoutGpu


def test_a_shape_is_computed_then_recorded_and_gradients_are_those_of_its_own_batch(without_gpu):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)

    def step(inputs):
        loss = model(inputs["rows"]).square().sum() / inputs["count"]
        loss.backward()
        return {"loss": loss.detach()}

    steps = without_gpu(step, model)
    for length in (2, 4, 2, 2, 4, 2):
        rows = torch.randn(length, 3)
        found = steps({"rows": rows, "count": torch.tensor(2.0)}, 1)["loss"]
        gradients = [weight.grad.clone() for weight in model.parameters()]
        model.zero_grad()
        expected = step({"rows": rows, "count": torch.tensor(2.0)})["loss"]
        assert torch.equal(found, expected)
        assert all(map(torch.equal, gradients, [weight.grad for weight in model.parameters()]))
        model.zero_grad()
    assert steps.done == ["computed", "computed", "recorded", "recorded"]


def test_gradients_of_several_batches_add_up_and_what_else_is_given_counts_as_a_shape(without_gpu):
    model = torch.nn.Linear(3, 1, bias=False)

    def step(inputs):
        model(inputs["rows"]).sum().backward()
        return {}

    steps = without_gpu(step, model)
    for _ in range(3):
        for number in (1.0, 2.0):
            steps({"rows": torch.full((2, 3), number)}, "two")
        assert model.weight.grad.tolist() == [[6.0] * 3]
        model.zero_grad()
    steps({"rows": torch.ones(2, 3)}, "one")
    assert steps.done == ["computed", "recorded", "computed"]
