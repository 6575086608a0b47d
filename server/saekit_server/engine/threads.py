"""How many threads the operations of a step are spread over, on a CPU."""

from __future__ import annotations

import torch

from saekit_core.lm.model import LanguageModel

SMALL_STEP = 1e8
"""Floating-point operations below which a step is not spread: a millisecond or two of one core."""


class StepThreads:
    """Sets the number of threads of the calling thread's operations, which is the device's.

    A small step is hundreds of operations of microseconds. Spread over all cores each of them ends
    when its slowest part does, and a core that the event loop or a client has just taken away
    makes that milliseconds. On one thread it leaves the other cores to them.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._all = torch.get_num_threads()
        self._now = self._all
        self._flops_per_token = 2 * sum(p.numel() for p in model.hf.parameters())
        self._on_cpu = model.device.type == "cpu"

    def for_tokens(self, count: int) -> None:
        """Make ready for a step of so many tokens."""
        small = self._on_cpu and count * self._flops_per_token < SMALL_STEP
        self._use(1 if small else self._all)

    def for_batch(self) -> None:
        """Make ready for anything else."""
        self._use(self._all)

    def _use(self, count: int) -> None:
        if count != self._now:
            torch.set_num_threads(count)  # of this thread; 0.1 microseconds
            self._now = count
