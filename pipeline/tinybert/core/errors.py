"""Errors that the user can fix, and the one line that each is reported in."""

import errno
import re

# How libraries report a full disk when they drop the error number: the Rust ones, numpy, torch.
FULL_DISK = re.compile(
    r"No space left on device|\d+ requested and \d+ written|iostream error|unexpected pos \d+ vs \d+"
)
# The same for a file that may not be read or written.
NO_PERMISSION = re.compile(r"Permission denied|Read-only file system|Operation not permitted")
# The same for memory. numpy and Python raise a MemoryError.
NO_MEMORY = re.compile(
    r"DefaultCPUAllocator|std::bad_alloc|[Bb]ad allocation|[Cc]annot allocate memory|Failed to allocate memory"
)


class UserError(Exception):
    """An error the user can fix. The message names the file, row or key and says what to do."""


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM. Not an Exception, so that no library swallows it."""


def message(error: BaseException) -> str | None:
    """The line to print for an error the user can fix; None for a bug in this program."""
    chain = _chain(error)
    for link in chain:
        if getattr(link, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or FULL_DISK.search(str(link)):
            file = getattr(link, "filename", None)
            where = f" while writing {file}" if file else ""
            return f"the disk is full{where}: free some space, then run `dvc repro` again; it resumes"
    if any(type(link).__name__ == "OutOfMemoryError" for link in chain):  # raised by torch for GPU memory
        return (
            "the GPU's memory is full: set a smaller batch_size or max_length, checkpointing: true, or the environment"
            " variable TINYBERT_CUDA_GRAPHS=0"
        )
    if any(isinstance(link, MemoryError) or NO_MEMORY.search(str(link)) for link in chain):
        return "the memory is full: end other programs, set a smaller batch_size or max_length, or take a smaller model"
    if isinstance(error, UserError):
        return " ".join(str(error).split())
    for link in chain:
        if getattr(link, "errno", None) in (errno.EACCES, errno.EPERM, errno.EROFS) or NO_PERMISSION.search(str(link)):
            file, reason = getattr(link, "filename", None) or "a file", getattr(link, "strerror", None) or str(link)
            return f"{file} cannot be read or written: {' '.join(reason.split())}: give this user the right to do so"
    return next((str(link) for link in chain if isinstance(link, Interrupted)), None)


def was_interrupted(error: BaseException) -> bool:
    """True for an interrupt, even if a library replaced it by another error, as C extensions do."""
    return any(isinstance(link, Interrupted) for link in _chain(error))


def is_about_a_file(error: BaseException) -> bool:
    """True if a file could not be read or written, even if a library replaced the error by another."""
    return any(isinstance(link, OSError) for link in _chain(error))


def _chain(error: BaseException) -> list[BaseException]:
    """The error, its cause, the cause of the cause, and so on."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    return chain
