import pytest
import torch

from pipeline.tinybert.core.errors import UserError, message


def torch_without_memory():
    torch.empty(1 << 60)


def a_library_that_wraps_the_error():
    try:
        raise MemoryError
    except MemoryError as error:
        raise UserError("the model cannot be loaded: MemoryError") from error


def the_system():
    raise OSError(12, "Cannot allocate memory")


def bug():
    raise RuntimeError("a tensor of the wrong shape")


@pytest.mark.parametrize("cause", [torch_without_memory, a_library_that_wraps_the_error, the_system])
def test_too_little_memory_is_an_error_in_one_line_with_advice(cause):
    with pytest.raises(Exception) as raised:
        cause()
    assert message(raised.value).startswith("the memory is full: end other programs, set a smaller batch_size")


def test_a_bug_is_no_error_that_the_user_can_fix():
    with pytest.raises(RuntimeError) as raised:
        bug()
    assert message(raised.value) is None
