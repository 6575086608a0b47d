"""What a training run says on its way and at its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from saekit_core.sae.features_file import FeaturesFile
from saekit_core.sae.sae import SAE
from saekit_trainer.evaluation import Evaluation
from saekit_trainer.trainer import StepMetrics


@dataclass(frozen=True)
class RunStatus:
    """Where a run is, after a step."""

    saes: Mapping[str, StepMetrics]
    """What the step saw of each SAE of the run, by its name."""
    total_steps: int
    """Length of the run in steps, an estimate where it ends by the clock."""
    seconds: float
    """Since the run began."""
    tokens_per_second: float
    seconds_left: float

    @property
    def metrics(self) -> StepMetrics:
        """Those of the first SAE, which is the only one but in a run of several."""
        return next(iter(self.saes.values()))


@dataclass(frozen=True)
class TrainingResult:
    """A finished SAE."""

    sae: SAE
    evaluation: Evaluation
    """On held-out contexts."""
    features: FeaturesFile
    """Statistics over `feature_stats_tokens` tokens, and example snippets."""
    training_density: Tensor
    """Share of tokens of the last `feature_sampling_window` steps in which each feature fired,
    ``[d_sae]``."""
    last_step: StepMetrics
    seconds: float
    """Of the training steps, the writing of text included."""
    folder: Path | None
    """Where the SAE was written; None without output_path and checkpoint_path."""
    skipped_samples: int = 0
    """Broken samples of the data set that were left out (`on_broken_sample`), of all passes."""
    report: Path | None = None
    """The page about the run (`html_report`); None without a folder for it."""

    def summary(self) -> dict[str, Any]:
        """The final metrics as plain JSON values."""
        last, cfg = self.last_step, self.sae.cfg
        return {
            "architecture": cfg.metadata.training_architecture,
            "model_name": cfg.model_name,
            "hook_name": cfg.hook_name,
            "d_in": cfg.d_in,
            "d_sae": cfg.d_sae,
            "training_tokens": last.tokens,
            "steps": last.step,
            "seconds": round(self.seconds, 2),
            "tokens_per_second": round(last.tokens / self.seconds, 1),
            "loss": last.loss,
            **last.losses,
            "training_dead_features": last.dead_features,
            "training_density_median": float(self.training_density.median()),
            "evaluation": self.evaluation.to_dict(),
            "skipped_samples": self.skipped_samples,
            "folder": None if self.folder is None else str(self.folder),
            "report": None if self.report is None else str(self.report),
        }


class RunObserver:
    """Follows a run; each method may be overridden."""

    def began(self, step: int, tokens: int) -> None:
        """Is called before the first step of this process; `step` have been done before it, on
        `tokens` activations.

        0, unless the run goes on from a checkpoint: what was seen of later steps then no longer
        counts.
        """

    def memory(self) -> dict[str, Any]:
        """JSON values to have back, by the name of this class, where the run goes on (see
        `ResumePoint.observers`): is called whenever a state is written."""
        return {}

    def step_done(self, status: RunStatus) -> None:
        """Is called after every step."""

    def evaluated(self, step: int, evaluations: Mapping[str, Evaluation]) -> None:
        """Is called with what the SAEs are worth after `step` steps, by name."""

    def folder_written(self, name: str, folder: Path) -> None:
        """Is called when the SAE `name` has been written to `folder`, before the end or at it."""

    def state_written(self, step: int, folder: Path) -> None:
        """Is called when `folder` holds all that is needed to go on after `step` steps."""

    def finished(self, results: Mapping[str, TrainingResult]) -> None:
        """Is called with the finished SAEs by name, when everything else has been written."""

    def closed(self) -> None:
        """Is called last, whether the run came to its end or not."""


Reporter = Callable[[RunStatus], None]
"""The one method of an observer that most callers want: `RunObserver.step_done`."""
