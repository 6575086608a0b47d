"""Runs of a model with and without an SAE in it, summed up over batches of contexts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from saekit_core.lm.bridged import TappedModel
from saekit_core.lm.hook_points import HookPoint, Tap
from saekit_core.lm.placing import bind_sae
from saekit_core.lm.predictions import kl_divergences, to_log_probabilities_
from saekit_core.sae.sae import SAE
from saekit_core.sae.statistics import FeatureStats, ReconstructionStats, to_float64
from saekit_trainer.special_tokens import left_out

_ACTS_NUMBERS: Final = 2**24
"""Feature activations that are worked on at a time, if they are of more than one context."""


class Evaluator:
    """Sums over batches of contexts."""

    def __init__(self, model: TappedModel, sae: SAE, exclude: bool | Sequence[int]) -> None:
        self.model = model
        self.bound = bind_sae(model, sae)
        self._exclude = exclude
        self.reconstruction = ReconstructionStats()
        self.features = FeatureStats()
        self.active_per_token: list[Tensor] = []
        self.losses = dict.fromkeys(("clean", "sae", "zero"), 0.0)
        self.divergences = dict.fromkeys(("sae", "zero"), 0.0)
        self.predicted = 0

    def add_reconstruction(self, tokens: Tensor) -> None:
        """Count the tokens ``[prompts, context]`` without predictions."""
        kept = ~left_out(self.model.tokenizer, tokens, self._exclude)
        x, y, _ = self._read(tokens)
        self._reconstruct(x, y, kept)

    def add(self, tokens: Tensor) -> None:
        """Count the tokens ``[prompts, context]``."""
        kept = ~left_out(self.model.tokenizer, tokens, self._exclude)
        at = kept.flatten().nonzero()[:, 0]
        x, y, logits = self._read(tokens, logits_at=at)
        x_hat = self._reconstruct(x, y, kept)
        assert logits is not None
        clean = to_log_probabilities_(logits)
        # Kept tokens that another token follows: their rows among the logits, and that token.
        followed = kept.clone()
        followed[:, -1] = False
        targets = (followed[kept].nonzero()[:, 0], tokens.roll(-1, dims=1)[followed])
        self.predicted += len(targets[0])
        self.losses["clean"] += _loss(clean, targets)
        for name, tap in {"sae": self._splice(kept, x_hat), "zero": self._zero()}.items():
            logits = self.model.forward(tokens, taps={self.bound.hook_out: tap}, logits_at=at)
            assert logits is not None
            changed = to_log_probabilities_(logits)
            self.losses[name] += _loss(changed, targets)
            self.divergences[name] += float(to_float64(kl_divergences(clean, changed)).sum())

    def _read(
        self, tokens: Tensor, *, logits_at: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """What the SAE reads and what it stands for, ``[prompts, context, d]`` each; logits."""
        seen: dict[HookPoint, Tensor] = {}

        def reader(hook: HookPoint) -> Tap:
            def read(h: Tensor) -> None:
                # The run goes on, and may write to what it has shown.
                seen[hook] = h.flatten(2).clone()

            return read

        hooks = (self.bound.hook, self.bound.hook_out)
        taps = {hook: reader(hook) for hook in hooks}
        logits = self.model.forward(tokens, taps=taps, logits_at=logits_at)
        return self.bound.x_of(seen[hooks[0]]), self.bound.y_of(seen[hooks[1]]), logits

    def _reconstruct(self, x: Tensor, y: Tensor, kept: Tensor) -> Tensor:
        """Reconstructions ``[n, d_out]`` at the n kept tokens, held against y there and counted."""
        sae = self.bound.sae
        # Whole contexts: a temporal SAE looks back in them.
        n = max(1, _ACTS_NUMBERS // (sae.cfg.d_sae * x.shape[1]))
        made = []
        for rows, wanted, here in zip(*(torch.split(t, n) for t in (x, y, kept)), strict=True):
            acts, state = sae.encode_with_state(rows.to(sae.device))
            there = here.to(sae.device)
            made.append(sae.decode(acts, state)[there])
            self.features.add(acts[there])
            self.active_per_token.append(acts[there].count_nonzero(dim=1).cpu())
            self.reconstruction.add(wanted[here], made[-1])
        return torch.cat(made)

    def _splice(self, kept: Tensor, x_hat: Tensor) -> Tap:
        """Replaces the kept activations by the reconstructions ``[n, d_out]``."""

        def tap(h: Tensor) -> Tensor:
            new = h.flatten(2).clone()
            part = new[..., self.bound.columns(self.bound.hook_out)]
            part[kept] = self.bound.stand_in(x_hat.to(new), part[kept])
            return new.view(h.shape)

        return tap

    def _zero(self) -> Tap:
        def tap(h: Tensor) -> Tensor:
            new = h.flatten(2).clone()
            new[..., self.bound.columns(self.bound.hook_out)] = 0
            return new.view(h.shape)

        return tap


def _loss(logprobs: Tensor, targets: tuple[Tensor, Tensor]) -> float:
    """Sum of the cross entropies of `targets` (rows, token ids), from ``[n, d_vocab]``."""
    return -float(to_float64(logprobs[targets]).sum())
