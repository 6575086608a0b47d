"""Out of device memory: recognise it, and do the same work in smaller parts."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

W = TypeVar("W")
R = TypeVar("R")


class DeviceMemoryError(Exception):
    """A batch needs more memory than the device has."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device (or, on a CPU, the machine) has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # The CPU allocator has no exception class of its own.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def release_cache() -> None:
    """Gives memory that the allocator keeps for later back to the device."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def in_halves(run: Callable[[Sequence[W]], list[R]], works: Sequence[W]) -> list[R]:
    """Runs a batch whose members cannot wait; in halves where memory does not suffice.

    Raises:
        DeviceMemoryError: there is too little for one alone.
    """
    try:
        return run(works)
    except DeviceMemoryError:
        if len(works) == 1:
            raise
    middle = len(works) // 2
    return [*in_halves(run, works[:middle]), *in_halves(run, works[middle:])]
