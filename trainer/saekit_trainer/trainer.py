"""`SAETrainer`: one optimisation step after another."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from saekit_core.sae.statistics import count_active, to_float64
from saekit_trainer.errors import DivergedError
from saekit_trainer.feature_activity import FeatureActivity
from saekit_trainer.plan import OptimizationConfig
from saekit_trainer.schedules import warm_up
from saekit_trainer.training_sae import TrainingSAE

# Arrays [rows, d_sae] of a block stay in cache, and below the size from which the C allocator asks
# the system for fresh pages each time: a third faster on a CPU than whole batches.
_BLOCK_BYTES = 8 * 2**20


@dataclass(frozen=True)
class StepMetrics:
    """What one step saw; `losses` are the terms that were minimised, weights included."""

    step: int
    tokens: int
    loss: float
    losses: dict[str, float]
    l0: float
    """Active features per token."""
    explained_variance: float
    """Of this batch, in the units that the SAE learns in."""
    dead_features: int
    learning_rate: float


class SAETrainer:
    """Trains one SAE on batches of normalised activations.

    Attributes:
        sae: the parameters, changed in place.
        config: how they are optimised.
        step: steps done.
        tokens: activations seen.
        activity: which features fire.
    """

    def __init__(self, sae: TrainingSAE, config: OptimizationConfig) -> None:
        self.sae = sae
        self.config = config
        self.step = 0
        self.tokens = 0
        self.device = sae.W_dec.device
        self.activity = FeatureActivity(
            sae.config.d_sae,
            dead_window=config.dead_feature_window,
            sampling_window=config.feature_sampling_window,
            device=self.device,
        )
        self.optimizer = torch.optim.Adam(
            sae.parameters(), lr=config.schedule.peak, betas=config.betas, fused=True
        )

    def train_step(self, x: Tensor, total_steps: int) -> StepMetrics:
        """Move the weights once.

        Args:
            x: normalised activations ``[rows, d_in]``.
            total_steps: length of the run, which the learning rate depends on.

        Raises:
            DivergedError: the loss is not finite; the weights are those before the step.
        """
        rate = self.config.schedule.at(self.step, total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        losses, counts, error = self._accumulate_gradients(x)
        loss = sum(losses.values())
        if not math.isfinite(loss):
            raise DivergedError(
                f"the loss at step {self.step} is {loss}; a lower lr or other activations may help"
            )
        if self.sae.config.normalize_sae_decoder:
            self.sae.project_decoder_gradient()
        self.optimizer.step()
        if self.sae.config.normalize_sae_decoder:
            self.sae.renormalize_decoder()
        self.activity.update(counts, len(x))
        self.step += 1
        self.tokens += len(x)
        return StepMetrics(
            step=self.step,
            tokens=self.tokens,
            loss=loss,
            losses=losses,
            l0=float(counts.sum()) / len(x),
            explained_variance=1.0 - error / _variance(x),
            dead_features=int(self.activity.dead.sum()),
            learning_rate=rate,
        )

    def _accumulate_gradients(self, x: Tensor) -> tuple[dict[str, float], Tensor, float]:
        """Gradients of the loss into the parameters; loss terms, firing counts, squared error."""
        dead = self.activity.dead
        sparsity = warm_up(self.step, self.config.sparsity_warm_up_steps)
        losses: dict[str, float] = {}
        counts = torch.zeros(self.sae.config.d_sae, device=self.device)
        error = 0.0
        for block in torch.split(x, self._block_rows(x, dead)):
            output = self.sae(block, sparsity=sparsity, dead=dead)
            share = len(block) / len(x)
            (output.loss * share).backward()
            for name, term in output.terms.items():
                losses[name] = losses.get(name, 0.0) + share * float(term.detach())
            counts += count_active(output.acts, self.config.dead_feature_threshold)
            error += float(to_float64(output.x_hat - block).square().sum())
        return losses, counts, error / len(x)

    def _block_rows(self, x: Tensor, dead: Tensor) -> int:
        if x.device.type != "cpu" or not self.sae.separable(dead):
            return len(x)
        return max(_BLOCK_BYTES // (self.sae.config.d_sae * x.element_size()), 256)


def _variance(x: Tensor) -> float:
    """E‖x‖²−‖E x‖², in float64."""
    wide = to_float64(x)
    return float((wide - wide.mean(dim=0)).square().sum()) / len(x)
