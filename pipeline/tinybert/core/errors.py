"""Errors that the user can fix, and the one line that each is reported in."""

import errno
import re

# How libraries report a full disk when they drop the error number: the Rust ones, numpy, torch.
FULL_DISK = re.compile(
    r"No space left on device|\d+ requested and \d+ written|iostream error|unexpected pos \d+ vs \d+"
)


class UserError(Exception):
    """An error the user can fix. The message names the file, row or key and says what to do."""


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM. Not an Exception, so that no library swallows it."""


def message(error: BaseException) -> str | None:
    """The line to print for an error the user can fix; None for a bug in this program."""
    chain, cause = [], error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    for cause in chain:
        if getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or FULL_DISK.search(str(cause)):
            where = f" while writing {cause.filename}" if getattr(cause, "filename", None) else ""
            return f"the disk is full{where}: free some space, then run `dvc repro` again; it resumes"
    if any(type(cause).__name__ == "OutOfMemoryError" for cause in chain):  # raised by torch for GPU memory
        return "the GPU's memory is full: set a smaller batch_size, or the environment variable TINYBERT_CUDA_GRAPHS=0"
    if isinstance(error, UserError | Interrupted):
        return " ".join(str(error).split())
    return None
