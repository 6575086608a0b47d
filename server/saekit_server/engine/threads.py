"""How many threads the operations of a step are spread over, on a CPU."""

from __future__ import annotations

import torch

from saekit_core.lm.model import LanguageModel

SMALL_STEP = 1e8
"""Floating-point operations below which a step is not spread: a millisecond or two of one core."""


class StepThreads:
    """Sets the number of threads of the calling thread's operations, which is the device's.

    A small step (of decoding, or of one short text) is hundreds of operations of microseconds.
    Spread over all cores each of them ends when its slowest part does, and a core that sleeps, or
    that the event loop or a client has just taken away, makes that milliseconds. On one thread it
    leaves the other cores to them.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._all = torch.get_num_threads()
        self._now = self._all
        self._flops_per_token = 2 * sum(p.numel() for p in model.hf.parameters())
        self._on_cpu = model.device.type == "cpu"

    def for_step(self, tokens: int, others: float = 0.0) -> None:
        """Make ready for so many tokens through the model, and `others` operations besides."""
        small = self._on_cpu and tokens * self._flops_per_token + others < SMALL_STEP
        self._use(1 if small else self._all)

    def _use(self, count: int) -> None:
        if count != self._now:
            torch.set_num_threads(count)  # of this thread; 0.1 microseconds
            self._now = count
