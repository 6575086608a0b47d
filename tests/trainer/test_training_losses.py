"""Losses and gradients against float64 references written from the formulas."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from saekit_trainer.plan import OptimizationConfig
from saekit_trainer.schedules import LearningRateSchedule
from saekit_trainer.trainer import SAETrainer
from saekit_trainer.training_sae import TrainingSAE, TrainingSAEConfig, new_training_sae

D_IN, D_SAE, ROWS = 12, 40, 64
CONFIGS = {
    "standard": TrainingSAEConfig("standard", D_IN, D_SAE, sparsity_coefficient=0.7),
    "standard-l2": TrainingSAEConfig(
        "standard", D_IN, D_SAE, sparsity_coefficient=0.7, lp_norm=2.0
    ),
    "standard-mean": TrainingSAEConfig(
        "standard", D_IN, D_SAE, sparsity_coefficient=0.1, mse_reduction="mean"
    ),
    "standard-no-b_dec": TrainingSAEConfig(
        "standard", D_IN, D_SAE, sparsity_coefficient=0.7, apply_b_dec_to_input=False
    ),
    "topk": TrainingSAEConfig("topk", D_IN, D_SAE, k=5, normalize_sae_decoder=True),
    "jumprelu": TrainingSAEConfig(
        "jumprelu",
        D_IN,
        D_SAE,
        sparsity_coefficient=0.3,
        jumprelu_init_threshold=0.4,
        jumprelu_bandwidth=0.5,
        pre_act_loss_coefficient=0.02,
    ),
}


def sae_and_batch(name: str, seed: int = 0) -> tuple[TrainingSAE, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    config = replace(CONFIGS[name], dtype=torch.float64, decoder_init_norm=0.8)
    sae = new_training_sae(config, generator=generator)
    with torch.no_grad():
        for parameter in sae.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.1 * noise)
    return sae, torch.randn(ROWS, D_IN, generator=generator, dtype=torch.float64)


def reference_loss(sae: TrainingSAE, x: Tensor, sparsity: float, dead: Tensor) -> Tensor:
    """The loss as the formulas say it; of jumprelu only what differentiates by itself."""
    config = sae.config
    p = (x - sae.b_dec if config.apply_b_dec_to_input else x) @ sae.W_enc + sae.b_enc
    norms = sae.W_dec.pow(2).sum(1).sqrt()
    weight = config.sparsity_coefficient * sparsity
    if config.architecture == "topk":
        kth = p.sort(dim=1, descending=True).values[:, config.k - 1 : config.k]
        acts = p.clamp_min(0) * (p >= kth)
    elif config.architecture == "jumprelu":
        acts = p * (p > sae.log_threshold.exp())
    else:
        acts = p.clamp_min(0)
    x_hat = acts @ sae.W_dec + sae.b_dec
    loss = (x - x_hat).pow(2).sum() / len(x)
    if config.mse_reduction == "mean":
        loss = loss / config.d_in
    if config.architecture == "standard":
        q = config.lp_norm
        loss = loss + weight * ((acts * norms).pow(q).sum(1).pow(1 / q)).mean()
    if config.architecture == "jumprelu":
        loss = loss + weight * (acts > 0).sum() / len(x)
        below = (sae.log_threshold.exp() - p).clamp_min(0) * dead * norms
        loss = loss + config.pre_act_loss_coefficient * below.sum() / len(x)
    if config.architecture == "topk" and dead.any():
        k_aux = D_IN // 2
        p_dead = p.masked_fill(~dead, -torch.inf)
        kth = p_dead.sort(dim=1, descending=True).values[:, min(k_aux, int(dead.sum())) - 1]
        a_dead = torch.where(p_dead >= kth[:, None], p_dead, 0.0).clamp_min(0)
        residual = (x - x_hat).detach()
        variance = (residual - residual.mean(0)).pow(2).sum() / len(x)
        aux = (a_dead @ sae.W_dec - residual).pow(2).sum() / len(x) / variance
        loss = loss + config.aux_k_coefficient * min(int(dead.sum()) / k_aux, 1) * aux
    return loss


def gradients(sae: TrainingSAE, loss: Tensor) -> dict[str, Tensor]:
    sae.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in sae.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("n_dead", [0, 3, 20])
def test_loss_and_gradients_equal_the_formula(name: str, n_dead: int) -> None:
    sae, x = sae_and_batch(name)
    dead = torch.zeros(D_SAE, dtype=torch.bool)
    dead[:n_dead] = True
    output = sae(x, sparsity=0.5, dead=dead)
    expected = reference_loss(sae, x, 0.5, dead)
    torch.testing.assert_close(output.loss, expected)
    torch.testing.assert_close(sum(output.terms.values()), expected)
    ours, theirs = gradients(sae, output.loss), gradients(sae, expected)
    for parameter in ("W_enc", "b_enc", "W_dec", "b_dec"):
        torch.testing.assert_close(ours[parameter], theirs[parameter])


def test_jumprelu_threshold_gradient_is_the_straight_through_rectangle() -> None:
    sae, x = sae_and_batch("jumprelu")
    config = sae.config
    alive = torch.zeros(D_SAE, dtype=torch.bool)
    got = gradients(sae, sae(x, sparsity=1.0, dead=alive).loss)["log_threshold"]
    with torch.no_grad():
        p = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
        theta = sae.log_threshold.exp()
        acts = p * (p > theta)
        grad_acts = 2 * (acts @ sae.W_dec + sae.b_dec - x) @ sae.W_dec.T / len(x)
        near = (p - theta).abs() < config.jumprelu_bandwidth / 2
        per_row = -(theta * grad_acts + config.sparsity_coefficient / len(x)) / 0.5
        expected = (near * per_row).sum(0) * theta  # the chain rule through the logarithm
    assert near.sum() > 100
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_in_blocks_equals_a_step_at_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    optimization = OptimizationConfig(
        schedule=LearningRateSchedule(peak=1e-2, end=1e-4),
        betas=(0.9, 0.999),
        sparsity_warm_up_steps=0,
        dead_feature_threshold=0.0,
        dead_feature_window=1,
        feature_sampling_window=10,
    )
    runs = []
    for rows in (ROWS, 24):
        monkeypatch.setattr(
            SAETrainer,
            "_block_rows",
            lambda self, x, dead, rows=rows: rows if self.sae.separable(dead) else len(x),
        )
        sae, x = sae_and_batch(name)
        trainer = SAETrainer(sae, optimization)
        metrics = [trainer.train_step(x, 10) for _ in range(3)][-1]
        runs.append((metrics, sae.state()))
    assert runs[0][0].losses == pytest.approx(runs[1][0].losses)
    assert runs[0][0].l0 == runs[1][0].l0
    for key, value in runs[0][1].items():
        torch.testing.assert_close(value, runs[1][1][key])


def test_decoder_rows_stay_unit_vectors_and_gradients_orthogonal_to_them() -> None:
    sae, x = sae_and_batch("topk")
    sae.renormalize_decoder()
    sae(x, sparsity=1.0, dead=torch.zeros(D_SAE, dtype=torch.bool)).loss.backward()
    sae.project_decoder_gradient()
    assert sae.W_dec.grad is not None
    along = (sae.W_dec.grad * sae.W_dec).sum(1)
    torch.testing.assert_close(along, torch.zeros(D_SAE, dtype=torch.float64))
    torch.testing.assert_close(sae.decoder_norms(), torch.ones(D_SAE, dtype=torch.float64))
