"""`SAETrainer`: one optimisation step after another."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saekit_core.sae.statistics import to_float64
from saekit_trainer.architectures.base import TrainingOutput, TrainingSAE
from saekit_trainer.architectures.revival import Leftover
from saekit_trainer.distributed.feature_shards import feature_axis, part_of, whole_of
from saekit_trainer.distributed.ranks import Ranks
from saekit_trainer.errors import DivergedError
from saekit_trainer.feature_activity import FeatureActivity
from saekit_trainer.plan import OptimizationConfig
from saekit_trainer.row_blocks import block_rows, blocks
from saekit_trainer.schedules import warm_up

# The first gradients are hundreds of times as long as later ones. Adam's mean of squares would
# remember them for a thousand steps, in which it would learn too slowly.
LONGEST_GRADIENT = 1.0


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

    def to_dict(self) -> dict[str, float]:
        """All figures by name, the loss terms beside the others."""
        return {
            "loss": self.loss,
            **self.losses,
            "l0": self.l0,
            "explained_variance": self.explained_variance,
            "dead_features": self.dead_features,
            "learning_rate": self.learning_rate,
            "tokens": self.tokens,
        }


class SAETrainer:
    """Trains one SAE on batches of normalised activations.

    Where the SAE's rows or features are shared among ranks, all of them take every step together,
    with the same batch. Each works on its share, and what they come to is what one would.

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
            sae.n_features,
            dead_window=config.dead_feature_window,
            sampling_window=config.feature_sampling_window,
            device=self.device,
        )
        self.optimizer = torch.optim.Adam(
            [p for p in sae.parameters() if p.requires_grad],
            lr=config.schedule.peak,
            betas=config.betas,
            fused=True,
        )
        self._forward: Callable[..., TrainingOutput] = sae
        if config.compilation_mode is not None:
            self._forward = torch.compile(sae, mode=config.compilation_mode)

    def train_step(self, x: Tensor, total_steps: int, y: Tensor | None = None) -> StepMetrics:
        """Move the weights once.

        Args:
            x: normalised activations ``[rows, d_in]``.
            total_steps: length of the run, which the learning rate depends on.
            y: what a transcoder reconstructs ``[rows, d_out]``; x itself without it.

        Raises:
            DivergedError: the loss is not finite; the weights are those before the step.
        """
        y = x if y is None else y
        rows, features = self.sae.row_ranks, self.sae.feature_ranks
        rate = self.config.schedule.at(self.step, total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        losses, counts, residual = self._accumulate_gradients(x, y)
        loss = sum(losses.values())
        unexplained = to_float64(residual).square().sum()
        rows.all_sum(unexplained)
        if not math.isfinite(loss):
            raise DivergedError(
                f"the loss at step {self.step} is {loss}; a lower lr or other activations may help"
            )
        self.sae.project_gradient()
        self._shorten_gradient()
        self.optimizer.step()
        self.sae.constrain()
        self.activity.update(counts, len(x))
        self.step += 1
        self.tokens += len(x)
        fired_and_dead = torch.stack([to_float64(t).sum() for t in (counts, self.activity.dead)])
        features.all_sum(fired_and_dead)
        fired, dead = fired_and_dead.tolist()
        return StepMetrics(
            step=self.step,
            tokens=self.tokens,
            loss=loss,
            losses=losses,
            l0=fired / len(x),
            explained_variance=1.0 - float(unexplained) / len(x) / _variance(y),
            dead_features=int(dead),
            learning_rate=rate,
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on besides its batch and `config`.

        The tensors are those in use: save them before the next step, which changes them. They are
        of the whole SAE, whatever is shared: every rank has to ask, and any number of ranks goes
        on from what any one of them got.
        """
        state = {
            "sae": self.sae.state_dict(),
            "optimizer": {name: dict(self.optimizer.state[p]) for name, p in self._optimized()},
            "activity": self.activity.state_dict(),
            "step": self.step,
            "tokens": self.tokens,
        }
        return self._map_tensors(state, whole_of)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken, bit for bit."""
        state = self._map_tensors(state, part_of)
        self.sae.load_state_dict(state["sae"])
        for name, p in self._optimized():
            # Copies: the optimizer changes them in place. And in the layout of the parameter, whose
            # memory the fused kernel goes through side by side with theirs.
            self.optimizer.state[p] = {
                key: torch.empty_like(
                    p if value.shape == p.shape else value, device=p.device
                ).copy_(value)
                for key, value in state["optimizer"][name].items()
            }
        self.activity.load_state_dict(state["activity"])
        self.step, self.tokens = state["step"], state["tokens"]

    def _optimized(self) -> list[tuple[str, Tensor]]:
        return [(name, p) for name, p in self.sae.named_parameters() if p.requires_grad]

    def _accumulate_gradients(
        self, x: Tensor, y: Tensor
    ) -> tuple[dict[str, float], Tensor, Tensor]:
        """Gradients of the loss into the parameters; loss terms, firing counts, residuals.

        All of them are those of the whole batch, but for the residuals: those are of the rows that
        are this rank's.
        """
        sparsity = warm_up(self.step, self.config.sparsity_warm_up_steps)
        dead = self.activity.dead.nonzero().squeeze(1) if self.sae.revives else None
        of_batch = len(x)
        mine = self.sae.row_ranks.share(of_batch)
        x, y = x[mine], y[mine]
        terms: dict[str, Tensor] = {}
        counts = torch.zeros(self.sae.n_features, device=self.device)
        residual = torch.empty_like(y)
        stop = 0
        size = block_rows(self.sae, x, sparse=self.sae.works_sparsely())
        with self.sae.fixed_norms():
            while stop < len(x):
                start, stop = stop, len(x) if self.sae.whole_batches else min(stop + size, len(x))
                with self._autocast():
                    output = self._forward(x[start:stop], y[start:stop], sparsity=sparsity)
                self._backward(output.terms, (stop - start) / of_batch, terms)
                counts += output.acts.count_firing(self.config.dead_feature_threshold)
                torch.sub(y[start:stop], output.y_hat.detach(), out=residual[start:stop])
                size = block_rows(self.sae, x, sparse=self.sae.works_sparsely(output.acts))
            if dead is not None and self.sae.feature_ranks.total(len(dead)):
                leftover = Leftover(residual, self._spread(residual, of_batch))
                for start, stop in blocks(len(x), block_rows(self.sae, x)):
                    with self._autocast():
                        revival = self.sae.revive(x[start:stop], leftover.rows(start, stop), dead)
                    self._backward(revival, (stop - start) / of_batch, terms)
        values = torch.stack(tuple(terms.values()))
        self._sum_over_ranks(values, counts)
        return dict(zip(terms, values.tolist(), strict=True)), counts, residual

    @torch.no_grad()
    def _shorten_gradient(self) -> None:
        """Scale the gradient to a norm of `LONGEST_GRADIENT` where it is longer.

        Every rank that has some of the features has the whole of the other parameters.
        """
        whole: list[Tensor] = []
        parts: list[Tensor] = []
        for name, parameter in self.sae.named_parameters():
            if parameter.grad is not None:
                among = whole if feature_axis(name, parameter) is None else parts
                among.append(parameter.grad)
        square = _square(parts)
        self.sae.feature_ranks.all_sum(square)
        factor = LONGEST_GRADIENT / (square + _square(whole)).sqrt()
        torch._foreach_mul_(whole + parts, factor.clamp_max(1.0))

    def _sum_over_ranks(self, terms: Tensor, counts: Tensor) -> None:
        """Complete the gradients and these sums by what the other ranks have."""
        of_all, of_features = [], []
        for name, parameter in self.sae.named_parameters():
            if parameter.grad is not None:
                of_all.append(parameter.grad)
                if feature_axis(name, parameter) is None:
                    of_features.append(parameter.grad)
        self.sae.row_ranks.all_sum(*of_all, terms, counts)
        self.sae.feature_ranks.all_sum(*of_features)

    def _spread(self, residual: Tensor, of_batch: int) -> Tensor:
        """E‖r − E r‖² of the rows r of the whole batch, a scalar."""
        rows = self.sae.row_ranks
        mean = residual.sum(dim=0)
        rows.all_sum(mean)
        squares = (residual - mean.div_(of_batch)).square().sum()
        rows.all_sum(squares)
        return squares / of_batch

    def density(self) -> Tensor:
        """Share of the tokens of late in which each feature fired, float32 ``[d_sae]``.

        Every rank has to ask, where features are shared.
        """
        return whole_of("density", self.activity.density, self.sae.feature_ranks)

    def _map_tensors(
        self, state: dict[str, Any], change: Callable[[str, Tensor, Ranks], Tensor]
    ) -> dict[str, Any]:
        """A `state_dict` with every tensor changed, which is called by the name it belongs to."""
        ranks, activity = self.sae.feature_ranks, state["activity"]
        return {
            **state,
            "sae": {name: change(name, tensor, ranks) for name, tensor in state["sae"].items()},
            "optimizer": {
                name: {key: change(name, tensor, ranks) for key, tensor in moments.items()}
                for name, moments in state["optimizer"].items()
            },
            "activity": {
                "silent_steps": change("silent_steps", activity["silent_steps"], ranks),
                "parts": [(change("counts", c, ranks), *rest) for c, *rest in activity["parts"]],
            },
        }

    def _backward(self, new: dict[str, Tensor], share: float, terms: dict[str, Tensor]) -> None:
        """Add a block's gradients to the parameters', and its share of the loss to `terms`."""
        loss = torch.stack(tuple(new.values())).sum() * share
        loss.backward()  # type: ignore[no-untyped-call]
        for name, term in new.items():
            part = term.detach() * share
            terms[name] = terms[name] + part if name in terms else part

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.config.autocast)


def _square(tensors: list[Tensor]) -> Tensor:
    """The sum of all their squares, a scalar."""
    return torch.stack([torch.linalg.vector_norm(t) for t in tensors]).square().sum()


def _variance(x: Tensor) -> float:
    """E‖x‖²−‖E x‖², in float64."""
    wide = to_float64(x)
    return float((wide - wide.mean(dim=0)).square().sum()) / len(x)
