"""Which features fire, how often, and which have fallen silent."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saekit_core.sae.statistics import to_float64

_PARTS = 16


@dataclass
class _Part:
    """Firing counts of a few steps in a row."""

    counts: Tensor
    tokens: int = 0
    steps: int = 0


class FeatureActivity:
    """Counts of firing per feature, fed once per training step.

    A feature is dead when it has not fired for `dead_window` steps; its density is the share of
    tokens of the last `sampling_window` steps in which it fired. The window moves by sixteenths,
    so that a long one needs no count of every step.
    """

    def __init__(
        self, d_sae: int, *, dead_window: int, sampling_window: int, device: torch.device | str
    ) -> None:
        self.dead_window = dead_window
        self._silent_steps = torch.zeros(d_sae, dtype=torch.int64, device=device)
        self._part_steps = -(-sampling_window // _PARTS)
        self._parts: deque[_Part] = deque(maxlen=-(-sampling_window // self._part_steps))

    def update(self, counts: Tensor, tokens: int) -> None:
        """Count one step: `counts` ``[d_sae]`` firings of each feature among `tokens` rows."""
        self._silent_steps += 1
        self._silent_steps[counts > 0] = 0
        if not self._parts or self._parts[-1].steps == self._part_steps:
            self._parts.append(_Part(torch.zeros_like(counts)))
        part = self._parts[-1]
        part.counts += counts
        part.tokens += tokens
        part.steps += 1

    @property
    def dead(self) -> Tensor:
        """bool ``[d_sae]``."""
        return self._silent_steps >= self.dead_window

    @property
    def density(self) -> Tensor:
        """Share of tokens in which each feature fired, float32 ``[d_sae]``; 0 before any step."""
        if not self._parts:
            return torch.zeros_like(self._silent_steps, dtype=torch.float32)
        counts = to_float64(torch.stack([part.counts for part in self._parts])).sum(dim=0)
        return (counts / sum(part.tokens for part in self._parts)).float()

    def state_dict(self) -> dict[str, Any]:
        """What has been counted."""
        return {
            "silent_steps": self._silent_steps.clone(),
            "parts": [(part.counts.clone(), part.tokens, part.steps) for part in self._parts],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken."""
        self._silent_steps.copy_(state["silent_steps"])
        self._parts.clear()
        self._parts.extend(_Part(counts.clone(), *sizes) for counts, *sizes in state["parts"])
