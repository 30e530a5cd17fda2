"""The squared error of TinyBERT's losses and its gradient on a GPU: one kernel that reads both tensors once.

With torch's operations, the difference, the mask, the square, the sum and the gradient would each go through memory in
float32: ten times the traffic of the two tensors and the gradient.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

VALUES_PER_PROGRAM = 4096  # that one program of the kernel handles


def squared_error(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """The sum of (student − teacher)² over what the mask keeps.

    student, teacher: (B, S, D), or (B, H, S, S), where the mask must keep both query and key. mask: (B, S). The result
    is deterministic.
    """
    sums = torch.empty(_programs(student), dtype=torch.float32, device=student.device)
    _run(student, teacher, mask, sums, sums, is_gradient=False)
    return sums.sum()


def gradient(student: Tensor, teacher: Tensor, mask: Tensor, factor: Tensor) -> Tensor:
    """``factor``, a scalar, times the gradient of `squared_error`; of the student's type and shape."""
    made = torch.empty_like(student, memory_format=torch.contiguous_format)
    _run(student, teacher, mask, factor, made, is_gradient=True)
    return made


def _rows_at_once(student: Tensor) -> int:
    return max(1, VALUES_PER_PROGRAM // triton.next_power_of_2(student.size(-1)))


def _programs(student: Tensor) -> int:
    return triton.cdiv(student.numel() // student.size(-1), _rows_at_once(student))


def _run(student: Tensor, teacher: Tensor, mask: Tensor, factor: Tensor, made: Tensor, is_gradient: bool) -> None:
    if student.shape != teacher.shape:
        raise ValueError(f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}: expected the same shape")
    width, of_pairs = student.size(-1), student.dim() == 4
    _kernel[(_programs(student),)](
        student.contiguous(), teacher.contiguous(), mask.contiguous(), factor, made,
        student.numel() // width, width, student.size(1) if of_pairs else 1, mask.size(1),
        of_pairs=of_pairs, is_gradient=is_gradient,
        columns=triton.next_power_of_2(width), rows_at_once=_rows_at_once(student),
    )  # fmt: skip


@triton.jit
def _kernel(
    student, teacher, mask, factor, made,
    rows, width, heads, length,
    of_pairs: tl.constexpr, is_gradient: tl.constexpr, columns: tl.constexpr, rows_at_once: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    row = (program * rows_at_once + tl.arange(0, rows_at_once))[:, None]
    column = tl.arange(0, columns)[None, :]
    inside = (row < rows) & (column < width)
    sequence, position = row // (heads * length), row % length
    kept = inside & (tl.load(mask + sequence * length + position, mask=row < rows, other=0) != 0)
    if of_pairs:
        kept &= tl.load(mask + sequence * length + column, mask=inside, other=0) != 0
    place = row * width + column
    own = tl.load(student + place, mask=kept, other=0).to(tl.float32)
    theirs = tl.load(teacher + place, mask=kept, other=0).to(tl.float32)
    difference = own - theirs
    if is_gradient:
        slope = 2 * difference * tl.load(factor).to(tl.float32)
        tl.store(made + place, slope.to(made.dtype.element_ty), mask=inside)
    else:
        tl.store(made + program, tl.sum(difference * difference))
