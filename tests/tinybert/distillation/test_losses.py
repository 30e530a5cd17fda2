import math

import pytest
import torch
from torch import tensor
from torch.nn.functional import pad

from pipeline.tinybert.distillation import losses
from pipeline.tinybert.distillation.losses import (
    attention_loss,
    hidden_loss,
    mean_squared_error,
    soft_binary_cross_entropy,
    soft_cross_entropy,
    span_cross_entropy,
)

# Two sequences of two positions, the second one's last position padded.
MASK = tensor([[1, 1], [1, 0]])
STUDENT_STATES = tensor([[[1.0, 2.0], [0.0, 0.0]], [[3.0, -1.0], [50.0, 50.0]]])
TEACHER_STATES = tensor([[[1.0, 4.0], [1.0, 1.0]], [[0.0, 0.0], [-9.0, 70.0]]])

# The same sequences with two heads: all four pairs of the first are real, of the second only the pair (0, 0).
STUDENT_SCORES = tensor([[[[1.0, 0.0], [2.0, 1.0]], [[0.0, 0.0], [0.0, 3.0]]], [[[2.0, 8.0], [8.0, 8.0]]] * 2])
TEACHER_SCORES = tensor([[[[0.0, 0.0], [0.0, 1.0]], [[0.0, 2.0], [0.0, 0.0]]], [[[0.0, 9.0], [7.0, 1.0]]] * 2])


def test_hidden_loss_is_the_mean_over_width_and_real_positions():
    # Squares by position, mean of the width: (0+4)/2, (1+1)/2, (9+1)/2; the padded one does not count.
    assert hidden_loss(STUDENT_STATES, TEACHER_STATES, MASK).item() == pytest.approx((2 + 1 + 5) / 3)


def test_attention_loss_is_the_mean_over_heads_and_real_pairs():
    # Squares by pair, mean of the heads. First sequence: (1+0)/2, (0+4)/2, (4+0)/2, (0+9)/2. Second: (4+4)/2.
    assert attention_loss(STUDENT_SCORES, TEACHER_SCORES, MASK).item() == pytest.approx((0.5 + 2 + 2 + 4.5 + 4) / 5)


@pytest.mark.parametrize("at_once", [1, 1 << 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_squared_errors_and_their_gradients_are_those_of_the_plain_expression(monkeypatch, dtype, at_once):
    """Whether a batch is compared as a whole or in parts."""
    monkeypatch.setattr(losses, "VALUES_PER_BLOCK", {"cpu": at_once})
    draw = torch.Generator().manual_seed(0)
    mask = torch.arange(5) < tensor([[5], [1], [3]])
    pairs = mask.unsqueeze(1) & mask.unsqueeze(2)
    for loss, shape, kept in ((hidden_loss, (3, 5, 4), mask), (attention_loss, (3, 2, 5, 5), pairs)):
        student, teacher = (torch.randn(shape, generator=draw).to(dtype) for _ in range(2))
        width = (-1,) if loss is hidden_loss else (1,)
        results = []
        for value in (
            lambda student, teacher=teacher, loss=loss: loss(student, teacher, mask),
            lambda student, teacher=teacher, kept=kept, width=width: (
                (student.float() - teacher.float()).square().mean(width)[kept].mean()
            ),
        ):
            own = student.clone().requires_grad_()
            found = value(own)
            (3 * found).backward()
            results.append((found, own.grad))
        torch.testing.assert_close(results[0][0], results[1][0])
        torch.testing.assert_close(results[0][1], results[1][1])
        assert (results[0][1] != 0).any()


def cross_entropy_by_hand(student: list[float], teacher: list[float], temperature: float) -> float:
    powers = [[math.exp(logit / temperature) for logit in logits] for logits in (student, teacher)]
    ours, theirs = ([power / sum(row) for power in row] for row in powers)
    return -sum(p * math.log(q) for p, q in zip(theirs, ours, strict=True))


def test_soft_cross_entropy_of_written_out_distributions():
    # exp gives the student 1/4, 3/4 and the teacher 1/2, 1/2.
    loss = soft_cross_entropy(tensor([[0.0, math.log(3)]]), tensor([[5.0, 5.0]]), tensor([True]))
    assert loss.item() == pytest.approx(-0.5 * math.log(1 / 4) - 0.5 * math.log(3 / 4))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_soft_cross_entropy_sums_over_classes_and_means_over_rows_without_the_square_of_the_temperature(
    temperature, classes
):
    student, teacher = torch.randn(2, 4, classes, generator=torch.Generator().manual_seed(0))
    expected = [
        cross_entropy_by_hand(ours, theirs, temperature)
        for ours, theirs in zip(student.tolist(), teacher.tolist(), strict=True)
    ]
    kept = tensor([True, False, True, True])
    assert soft_cross_entropy(student, teacher, torch.ones(4), temperature).item() == pytest.approx(sum(expected) / 4)
    masked = soft_cross_entropy(student, teacher, kept, temperature)
    assert masked.item() == pytest.approx((expected[0] + expected[2] + expected[3]) / 3)


def test_soft_cross_entropy_has_no_gradient_for_the_teacher_s_own_logits():
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    student = logits.clone().requires_grad_()
    soft_cross_entropy(student, logits, torch.ones(3), 2.0).backward()
    torch.testing.assert_close(student.grad, torch.zeros(3, 4), atol=1e-7, rtol=0)


def test_binary_cross_entropy_is_that_computed_by_hand():
    student, teacher = torch.tensor([[[0.0, 2.0]], [[1.0, 5.0]]]), torch.tensor([[[4.0, -2.0]], [[0.0, 0.0]]])
    q, p = torch.sigmoid(student[0, 0] / 2), torch.sigmoid(teacher[0, 0] / 2)
    expected = -(p * q.log() + (1 - p) * (1 - q).log()).sum()  # the second row does not count
    mask = torch.tensor([[True], [False]])
    torch.testing.assert_close(soft_binary_cross_entropy(student, teacher, mask, 2.0), expected)


def test_the_span_loss_is_a_cross_entropy_over_the_kept_positions_for_start_and_for_end():
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 5, 2, generator=draw) for _ in range(2))
    mask = torch.tensor([[True, False, True, True, False], [True, True, False, False, False]])
    rows = []
    for row, kept in enumerate(mask):
        for side in range(2):
            target = (teacher[row, kept, side] / 3).softmax(-1)
            rows.append(-(target * (student[row, kept, side] / 3).log_softmax(-1)).sum())
    torch.testing.assert_close(span_cross_entropy(student, teacher, mask, 3.0), sum(rows) / 4)


def test_squares_are_those_of_the_rows_that_count():
    student, teacher = torch.tensor([[[1.0]], [[2.0]], [[9.0]]]), torch.tensor([[[3.0]], [[2.5]], [[0.0]]])
    mask = torch.tensor([[True], [True], [False]])
    assert mean_squared_error(student, teacher, mask).item() == pytest.approx((4 + 0.25) / 2)


@pytest.mark.parametrize(
    "loss", [soft_cross_entropy, soft_binary_cross_entropy, span_cross_entropy, mean_squared_error]
)
def test_padding_changes_no_loss_of_class_logits_and_has_no_gradient(loss):
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 4, 2, generator=draw) for _ in range(2))
    mask = torch.tensor([[True, True, False, True], [True, False, True, False]])
    alone = loss(student, teacher, mask)
    longer = pad(student, (0, 0, 0, 3), value=50.0).requires_grad_()
    value = loss(longer, pad(teacher, (0, 0, 0, 3), value=-50.0), pad(mask, (0, 3)))
    torch.testing.assert_close(value, alone)
    value.backward()
    assert not longer.grad[~pad(mask, (0, 3))].any() and longer.grad[:, :4][mask].any()


@pytest.mark.parametrize(
    ("loss", "student", "teacher", "mask"),
    [
        (hidden_loss, STUDENT_STATES, TEACHER_STATES, torch.zeros(2, 2)),
        (attention_loss, STUDENT_SCORES, TEACHER_SCORES, torch.zeros(2, 2)),
        (soft_cross_entropy, STUDENT_STATES[0], TEACHER_STATES[0], torch.zeros(2)),
    ],
)
def test_an_all_masked_batch_gives_no_loss_and_no_gradient(loss, student, teacher, mask):
    student = student.clone().requires_grad_()
    value = loss(student, teacher, mask)
    value.backward()
    assert value.item() == 0
    assert torch.equal(student.grad, torch.zeros_like(student))


@pytest.mark.parametrize(
    ("loss", "shape", "mask"),
    [
        (hidden_loss, (3, 4, 6), torch.ones(3, 4)),
        (attention_loss, (3, 2, 4, 4), torch.ones(3, 4)),
        (soft_cross_entropy, (4, 6), torch.ones(4)),
    ],
)
def test_losses_of_half_precision_are_computed_in_float32(loss, shape, mask):
    student, teacher = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    value = loss(student, teacher, mask)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(student.float(), teacher.float(), mask), atol=0, rtol=0)


def test_relations_are_compared_head_by_head_whatever_the_widths():
    """By loops over rows, heads and positions, cut to their length."""
    draw = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 5, 6, generator=draw), torch.randn(2, 5, 12, generator=draw)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    total, positions = 0.0, 0
    for row, length in enumerate(mask.sum(1).tolist()):
        for head in range(3):
            ours, theirs = (
                vectors[row, :length, head * size : (head + 1) * size] for vectors, size in ((student, 2), (teacher, 4))
            )
            own, goal = ((v @ v.T / v.size(1) ** 0.5).softmax(-1) for v in (ours, theirs))
            total += (goal * (goal.log() - own.log())).sum() / 3
        positions += length
    torch.testing.assert_close(losses.relation_loss(student, teacher, mask, 3), total / positions)
    assert losses.relation_loss(teacher, teacher, mask, 3).abs() < 1e-6
