"""Learning rates and warm-ups as pure functions of the step: a run can be taken up anywhere."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

SchedulerName = Literal["constant", "cosineannealing", "cosineannealingwarmrestarts"]


@dataclass(frozen=True)
class LearningRateSchedule:
    """A linear warm-up, a main part, and a linear decay to `end`, over the steps of a run."""

    peak: float
    """Learning rate after the warm-up."""
    end: float
    """Learning rate that annealing and decay lead to."""
    name: SchedulerName = "constant"
    """Shape of the main part."""
    warm_up_steps: int = 0
    """Steps from (nearly) zero to `peak`."""
    decay_steps: int | None = None
    """Last steps of the run, which go linearly to `end`; None takes the last fifth."""
    restart_cycles: int = 1
    """Cosine cycles of ``cosineannealingwarmrestarts``."""

    def at(self, step: int, total_steps: int) -> float:
        """Learning rate of the 0-based `step` of a run of `total_steps`."""
        decay_steps = total_steps // 5 if self.decay_steps is None else self.decay_steps
        main_end = max(total_steps - decay_steps, 0)
        if step < min(self.warm_up_steps, main_end):
            return self.peak * (step + 1) / self.warm_up_steps
        at_end_of_main = self._main(min(step, main_end), main_end)
        if step < main_end or decay_steps == 0:
            return at_end_of_main
        left = max(total_steps - step, 0) / decay_steps
        return self.end + (at_end_of_main - self.end) * left

    def _main(self, step: int, main_end: int) -> float:
        if self.name == "constant":
            return self.peak
        length = max(main_end - self.warm_up_steps, 1)
        done = min(max(step - self.warm_up_steps, 0) / length, 1.0)
        if self.name == "cosineannealingwarmrestarts" and done < 1.0:
            done = math.modf(done * self.restart_cycles)[0]
        return self.end + (self.peak - self.end) * 0.5 * (1.0 + math.cos(math.pi * done))


def warm_up(step: int, steps: int) -> float:
    """Factor of a sparsity penalty that grows linearly over `steps`, 1 from then on."""
    return 1.0 if steps <= 0 else min((step + 1) / steps, 1.0)
