"""The C allocator, told to keep the memory that tensors give back.

glibc returns large arrays to the system as soon as they are freed, and asks for fresh pages, which
the system has to clear, when the next one is made. A training step that makes the same arrays of
megabytes each time spends a tenth to a fifth of its time on that.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

# Of <malloc.h>.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_KEPT: Final = 2**30
# Where glibc's own thresholds end up in a process that has freed large arrays.
_ADAPTED_MMAP: Final = 32 * 2**20
_ADAPTED_TRIM: Final = 64 * 2**20


@contextmanager
def kept_heap(*, wanted: bool = True) -> Iterator[None]:
    """Until the end, memory that is freed stays with the process; then the system has it back.

    It holds for the whole process. Other C libraries than glibc are left as they are.

    Args:
        wanted: whether to do anything.
    """
    libc = _glibc() if wanted else None
    if libc is None:
        yield
        return
    libc.mallopt(_M_MMAP_THRESHOLD, _KEPT)
    libc.mallopt(_M_TRIM_THRESHOLD, _KEPT)
    try:
        yield
    finally:
        libc.mallopt(_M_MMAP_THRESHOLD, _ADAPTED_MMAP)
        libc.mallopt(_M_TRIM_THRESHOLD, _ADAPTED_TRIM)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None
