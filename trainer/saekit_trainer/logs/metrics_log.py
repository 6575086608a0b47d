"""What a log of any kind records, and when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from saekit_trainer.evaluation import Evaluation
from saekit_trainer.results import RunObserver, RunStatus
from saekit_trainer.trainer import StepMetrics

Figures = Mapping[str, float]
_OF_THE_RUN: Final = "tokens"


class MetricsLog(RunObserver):
    """Records the figures of every `every`-th step, and those of every evaluation."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._tokens = 0

    def record(self, step: int, saes: Mapping[str, Figures], run: Figures) -> None:
        """Write down what is known of a step.

        The figures of a step may come in several parts, one call for each.

        Args:
            saes: figures of each SAE, by its name.
            run: figures of the run as a whole; ``tokens`` is always one.
        """
        raise NotImplementedError

    def began(self, step: int, tokens: int) -> None:  # noqa: ARG002
        self._tokens = tokens

    def step_done(self, status: RunStatus) -> None:
        self._tokens = status.metrics.tokens
        if status.metrics.step % self._every:
            return
        run = {
            "tokens": self._tokens,
            "seconds": status.seconds,
            "tokens_per_second": status.tokens_per_second,
        }
        saes = {name: step_figures(metrics) for name, metrics in status.saes.items()}
        self.record(status.metrics.step, saes, run)

    def evaluated(self, step: int, evaluations: Mapping[str, Evaluation]) -> None:
        saes = {name: evaluation_figures(found) for name, found in evaluations.items()}
        self.record(step, saes, {"tokens": self._tokens})


def step_figures(metrics: StepMetrics) -> dict[str, float]:
    """Those of a training batch, by name."""
    return {name: value for name, value in metrics.to_dict().items() if name != _OF_THE_RUN}


def evaluation_figures(evaluation: Evaluation) -> dict[str, float]:
    """Those of held-out text, by names that say so where a training batch has the same ones."""
    return {
        key if key.startswith(("ce_", "kl_")) else f"eval/{key}": value
        for key, value in evaluation.to_dict().items()
    }


def flat(saes: Mapping[str, Figures], run: Figures) -> dict[str, float]:
    """Every figure by one name: ``l0``, or ``NAME/l0`` where there are several SAEs."""
    own = {
        f"{name}/{key}" if name else key: value
        for name, figures in saes.items()
        for key, value in figures.items()
    }
    return {**run, **own}
