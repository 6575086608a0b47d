"""The losses of every architecture as their formulas say them, for autograd in float64.

Written with dense arrays and plain operations throughout. What has no gradient of its own (the
jumps of JumpReLU) is written as a value plus a linear term that vanishes, whose slope is the
straight-through estimate.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saekit_trainer.architectures import TrainingSAE


def reference_loss(
    sae: TrainingSAE, x: Tensor, y: Tensor, sparsity: float, dead: Tensor
) -> tuple[Tensor, Tensor]:
    """The loss of a whole batch, and ŷ. `dead` is bool ``[d_sae]``."""
    c = sae.config
    if c.architecture == "matching_pursuit":
        return _matching_pursuit(sae, x, y)
    p = (x - sae.b_dec if c.apply_b_dec_to_input else x) @ sae.W_enc + sae.b_enc
    norms = sae.W_dec.pow(2).sum(1).sqrt()
    rows, ranked = sae.W_dec, p
    if c.rescale_acts_by_decoder_norm:
        rows, ranked = rows / norms[:, None], p * norms
    acts, penalty = _activations(sae, p, ranked, norms)
    y_hat = acts @ rows + sae.b_dec
    if sae.W_skip is not None:
        y_hat = y_hat + x @ sae.W_skip.T
    loss = _mse(sae, y, y_hat) + c.sparsity_coefficient * sparsity * penalty
    for width in c.matryoshka_widths[:-1]:
        loss = loss + _mse(sae, y, acts[:, :width] @ rows[:width] + sae.b_dec)
    if c.architecture == "gated":
        gate_only = p.clamp_min(0) @ sae.W_dec.detach() + sae.b_dec.detach()
        loss = loss + _mse(sae, y, gate_only)
    if dead.any():
        loss = loss + _revival(sae, p, ranked, rows, (y - y_hat).detach(), dead)
    return loss, y_hat


def _mse(sae: TrainingSAE, y: Tensor, y_hat: Tensor) -> Tensor:
    error = (y - y_hat).pow(2)
    reduced = error.mean(1) if sae.config.mse_reduction == "mean" else error.sum(1)
    return reduced.mean()


def _activations(
    sae: TrainingSAE, p: Tensor, ranked: Tensor, norms: Tensor
) -> tuple[Tensor, Tensor]:
    c = sae.config
    none = p.new_zeros(())
    match c.architecture:
        case "standard" | "transcoder" | "skip_transcoder":
            acts = p.clamp_min(0)
            return acts, (acts * norms).pow(c.lp_norm).sum(1).pow(1 / c.lp_norm).mean()
        case "gated":
            magnitude = (p - sae.b_enc) * sae.r_mag.exp() + sae.b_mag
            return (p > 0) * magnitude.clamp_min(0), (p.clamp_min(0) * norms).sum(1).mean()
        case "topk":
            return _keep(ranked, ranked, int(c.k)).clamp_min(0), none
        case "abstopk":
            return _keep(ranked, ranked.abs(), int(c.k)), none
        case "batchtopk" | "matryoshka_batchtopk":
            n = int(c.k * len(p))
            flat = ranked.clamp_min(0).flatten()[None]
            return _keep(flat, flat, n).view_as(ranked), none
        case _:
            return _jumprelu(sae, p, norms)


def _keep(values: Tensor, rank: Tensor, k: int) -> Tensor:
    kth = rank.detach().sort(dim=1, descending=True).values[:, k - 1 : k]
    return values * (rank >= kth)


def _jumprelu(sae: TrainingSAE, p: Tensor, norms: Tensor) -> tuple[Tensor, Tensor]:
    c = sae.config
    theta = sae.threshold
    above = (p > theta).to(p.dtype)
    near = ((p - theta).abs() < c.jumprelu_bandwidth / 2).to(p.dtype) / c.jumprelu_bandwidth
    slope = near.detach() * (theta - theta.detach())
    acts = p * above - theta.detach() * slope
    l0 = (above - slope).sum(1)
    match c.jumprelu_sparsity_loss_mode:
        case "step":
            penalty = l0.mean()
        case "quadratic":
            penalty = (2 / c.target_l0 * (l0 - c.target_l0) ** 2).mean()
        case "tanh":
            penalty = torch.tanh(c.jumprelu_tanh_scale * acts * norms).sum(1).mean()
    return acts, penalty


def _revival(  # noqa: PLR0917
    sae: TrainingSAE, p: Tensor, ranked: Tensor, rows: Tensor, residual: Tensor, dead: Tensor
) -> Tensor:
    c = sae.config
    norms = sae.W_dec.pow(2).sum(1).sqrt()
    loss = p.new_zeros(())
    if c.use_ghost_grads:
        ghost = torch.exp(p[:, dead]) @ sae.W_dec[dead]
        size, wanted = ghost.norm(dim=1, keepdim=True), residual.norm(dim=1, keepdim=True)
        error = (ghost * (wanted / (2 * size)).detach() - residual).pow(2).sum(1)
        scale = c.target_width if c.mse_reduction == "mean" else 1
        per_row = residual.pow(2).sum(1) / error.detach() * error
        loss = loss + per_row.mean() / scale
    if "topk" in c.architecture:
        k_aux = c.d_in // 2
        among = ranked.masked_fill(~dead, 0)
        rank = (among.abs() if c.architecture == "abstopk" else ranked).masked_fill(
            ~dead, -torch.inf
        )
        kept = _keep(among, rank, min(k_aux, int(dead.sum())))
        if c.architecture != "abstopk":
            kept = kept.clamp_min(0)
        variance = (residual - residual.mean(0)).pow(2).sum(1).mean()
        aux = (kept @ rows - residual).pow(2).sum(1).mean() / variance
        loss = loss + c.aux_k_coefficient * min(int(dead.sum()) / k_aux, 1) * aux
    if c.pre_act_loss_coefficient:
        below = (sae.threshold - p).clamp_min(0) * dead * norms
        loss = loss + c.pre_act_loss_coefficient * below.sum(1).mean()
    return loss


def _matching_pursuit(sae: TrainingSAE, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Row by row, as the algorithm is told."""
    c = sae.config
    reconstructions = []
    for row in x:
        residual, active = row - sae.b_dec, set()
        for _ in range(c.max_iterations):
            feature = int((sae.W_dec @ residual).argmax())
            value = (residual @ sae.W_dec[feature]).clamp_min(0)
            residual = residual - value * sae.W_dec[feature]
            grew = value.item() > 0 and feature not in active
            active.add(feature)
            if c.stop_on_duplicate_support and not grew:
                break
            if residual.norm().item() < c.residual_threshold:
                break
        reconstructions.append(row - residual)
    y_hat = torch.stack(reconstructions)
    return _mse(sae, y, y_hat), y_hat
