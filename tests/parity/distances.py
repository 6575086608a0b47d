"""How close each feature is to flipping, in float64: what decides whether rounding may flip it."""

from __future__ import annotations

import torch
from torch import Tensor

from saekit_core.sae import SAE


def distances(sae: SAE, x: Tensor) -> Tensor:
    """Distance of each feature from its boundary, over what its pre-activation can at most be.

    Args:
        sae: in float64; any architecture but matching pursuit.

    Returns:
        ``[..., d_sae]``, at least 0.
    """
    cfg, w = sae.cfg, sae.weights()
    x_tilde, _ = sae.prepare(x)
    if cfg.architecture == "temporal":
        p, most = _novel(sae, x, x_tilde)
        return _of_rank(p, p, most, cfg.kval_topk if cfg.sae_diff_type == "topk" else None)
    product = x_tilde @ w["W_enc"]
    most = x_tilde.norm(dim=-1, keepdim=True) * w["W_enc"].norm(dim=0)
    if cfg.architecture == "gated":
        gate = (product + w["b_gate"]).abs() / (most + w["b_gate"].abs())
        gain = w["r_mag"].exp()
        magnitude = (product * gain + w["b_mag"]).abs() / (most * gain + w["b_mag"].abs())
        return torch.minimum(gate, magnitude)
    p, most = product + w["b_enc"], most + w["b_enc"].abs()
    if "threshold" in w:
        return (p - w["threshold"].clamp(min=0)).abs() / most
    if cfg.rescale_acts_by_decoder_norm:
        norms = w["W_dec"].norm(dim=-1)
        p, most = p * norms, most * norms
    return _of_rank(p, p.abs() if cfg.architecture == "abstopk" else p, most, cfg.k)


def pursuit_distances(sae: SAE, x: Tensor) -> Tensor:
    """The closest call of each row's pursuit, over what a score can at most be; ``[...]``.

    Args:
        sae: a matching pursuit SAE in float64.
    """
    cfg, rows = sae.cfg, sae.W_dec
    x_tilde, _ = sae.prepare(x)
    left = x_tilde.reshape(-1, cfg.d_in).clone()
    most = left.norm(dim=1) * rows.norm(dim=1).max()
    acts = left.new_zeros((len(left), cfg.d_sae))
    closest = torch.full_like(most, torch.inf)
    goes_on = torch.ones_like(most, dtype=torch.bool)
    for _ in range(cfg.max_iterations or cfg.d_in):
        scores, chosen = (left @ rows.T).topk(2, dim=1)
        value, runner_up = scores.unbind(dim=1)
        # Two scores are rounded; a best score at 0 ends a pursuit that waits for duplicates.
        calls = torch.minimum((value - runner_up) / (2 * most), value.abs() / most)
        value = value.relu() * goes_on
        is_new = (acts.gather(1, chosen[:, :1])[:, 0] == 0) & (value != 0)
        acts.scatter_add_(1, chosen[:, :1], value[:, None])
        left = left - value[:, None] * rows[chosen[:, 0]]
        rest = left.norm(dim=1)
        if cfg.residual_threshold:
            calls = torch.minimum(calls, (rest - cfg.residual_threshold).abs() / most)
        closest = torch.where(goes_on, torch.minimum(closest, calls), closest)
        if cfg.stop_on_duplicate_support:
            goes_on = goes_on & is_new
        if cfg.residual_threshold:
            goes_on = goes_on & (rest >= cfg.residual_threshold)
    return closest.view(x_tilde.shape[:-1])


def _novel(sae: SAE, x: Tensor, x_tilde: Tensor) -> tuple[Tensor, Tensor]:
    """Pre-activations of a temporal SAE's novel features, and what they can at most be."""
    weights, scale = sae.weights(), 1 / (4 * sae.cfg.d_in)
    encoder = weights["W_enc"] if "W_enc" in weights else weights["W_dec"].mT
    predicted = sae.encode_with_state(x)[1].predicted
    assert predicted is not None
    p = (x_tilde - predicted) @ encoder * scale
    return p, x_tilde.norm(dim=-1, keepdim=True) * encoder.norm(dim=0) * scale


def _of_rank(p: Tensor, rank: Tensor, most: Tensor, k: int | None) -> Tensor:
    """Distances where the k of largest rank are kept, and those at 0 are inactive anyway."""
    if k is None:
        return p.abs() / most
    largest, index = rank.topk(k + 1, dim=-1)
    kept = rank >= largest[..., -2:-1]
    # Whom it would have to fall behind, or to overtake; both sides are rounded.
    rival = torch.where(kept, largest[..., -1:], largest[..., -2:-1])
    most_of_kth, most_of_next = most.gather(-1, index)[..., -2:].split(1, dim=-1)
    rival_most = torch.where(kept, most_of_next, most_of_kth)
    return torch.minimum((rank - rival).abs() / (most + rival_most), p.abs() / most)
