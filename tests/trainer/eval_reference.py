"""The figures of an evaluation by their formulas, in float64 and all at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from saekit_core.sae import SAE


@torch.no_grad()
def reference_figures(bridge: Any, sae: SAE, tokens: Tensor, keep: Tensor) -> dict[str, Any]:
    """Of `sae` in `bridge`, at the tokens that `keep` ``[prompts, context]`` marks."""
    hook = sae.cfg.metadata.hook_name
    out = sae.cfg.metadata.hook_name_out or hook
    cache = bridge.run_with_cache(tokens)[1]
    x, y = cache[hook].flatten(2), cache[out].flatten(2)
    acts, state = sae.encode_with_state(x)
    y_hat = sae.decode(acts, state).flatten(2)

    def log_probabilities(replace: Callable[[Tensor], Tensor] | None) -> Tensor:
        def edit(h: Tensor, hook: object) -> Tensor | None:  # noqa: ARG001
            return None if replace is None else replace(h.flatten(2)).view(h.shape)

        logits: Tensor = bridge.run_with_hooks(tokens, fwd_hooks=[(out, edit)])
        return logits.double().log_softmax(-1)

    clean = log_probabilities(None)
    spliced = log_probabilities(lambda h: torch.where(keep[..., None], y_hat, h))
    zeroed = log_probabilities(torch.zeros_like)
    a, v, v_hat = acts[keep].double(), y[keep].double(), y_hat[keep].double()
    norm, norm_hat = v.norm(dim=1), v_hat.norm(dim=1)
    density = (a != 0).double().mean(0)
    return {
        "tokens": int(keep.sum()),
        "l0": (a != 0).double().sum(1).mean(),
        "l1": a.abs().sum(1).mean(),
        "explained_variance": 1
        - (v - v_hat).square().sum(1).mean() / v.var(dim=0, correction=0).sum(),
        "mse": (v - v_hat).square().sum(1).mean(),
        "cosine_similarity": torch.cosine_similarity(v, v_hat).mean(),
        "shrinkage": norm_hat.mean() / norm.mean(),
        "l2_ratio": (norm_hat / norm).mean(),
        "relative_reconstruction_bias": norm_hat.square().mean() / (v * v_hat).sum(1).mean(),
        "dead_features": int((density == 0).sum()),
        "fraction_alive": (density > 0).double().mean(),
        "density": density,
        "ce_loss_clean": _loss(clean, tokens, keep),
        "ce_loss_sae": _loss(spliced, tokens, keep),
        "ce_loss_zero": _loss(zeroed, tokens, keep),
        "kl_sae": _divergence(clean, spliced, keep),
        "kl_zero": _divergence(clean, zeroed, keep),
    }


def _loss(log_probabilities: Tensor, tokens: Tensor, keep: Tensor) -> Tensor:
    each = -log_probabilities[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]
    return each[keep[:, :-1]].mean()


def _divergence(clean: Tensor, changed: Tensor, keep: Tensor) -> Tensor:
    return (clean.exp() * (clean - changed)).sum(-1)[keep].mean()
