"""Memory that is kept while tensors come and go."""

from __future__ import annotations

import sys

import pytest
import torch

from saekit_core import heap


def _fresh_pages() -> int:
    """Pages that the system had to give for arrays of 128 MiB, made and dropped ten times."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        arrays = [torch.ones(2**22) for _ in range(8)]
        del arrays
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(heap._glibc() is None, reason="another C library")
def test_freed_memory_stays_until_the_end() -> None:
    with heap.kept_heap():
        _fresh_pages()
        assert _fresh_pages() < 100
    # 32,768 pages of 4 KiB at least; fewer where pages are huge.
    assert _fresh_pages() > 500


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with heap.kept_heap():
        assert torch.ones(3).sum() == 3
