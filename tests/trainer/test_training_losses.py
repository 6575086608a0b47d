"""Losses and gradients against float64 references written from the formulas."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.trainer.loss_reference import reference_loss
from torch import Tensor

from saekit_trainer import trainer as trainer_module
from saekit_trainer.architectures import TRAINING_SAES, TrainingSAEConfig, new_training_sae
from saekit_trainer.plan import OptimizationConfig
from saekit_trainer.schedules import LearningRateSchedule
from saekit_trainer.trainer import SAETrainer

D_IN, D_OUT, D_SAE, ROWS = 12, 10, 40, 64
OPTIMIZATION = OptimizationConfig(
    schedule=LearningRateSchedule(peak=1e-2, end=1e-4),
    betas=(0.9, 0.999),
    sparsity_warm_up_steps=2,
    dead_feature_threshold=0.0,
    dead_feature_window=5,
    feature_sampling_window=10,
)


def config(architecture: str, **values: object) -> TrainingSAEConfig:
    d_out = D_OUT if architecture.endswith("transcoder") else None
    shared = {"apply_b_dec_to_input": d_out is None, "dtype": torch.float64}
    return TrainingSAEConfig(
        architecture, D_IN, D_SAE, d_out=d_out, decoder_init_norm=0.8, **{**shared, **values}
    )


JUMP = {
    "sparsity_coefficient": 0.3,
    "jumprelu_init_threshold": 0.4,
    "jumprelu_bandwidth": 0.5,
    "pre_act_loss_coefficient": 0.02,
}
CONFIGS = {
    "standard": config("standard", sparsity_coefficient=0.7),
    "standard-l2": config("standard", sparsity_coefficient=0.7, lp_norm=2.0),
    "standard-mean": config(
        "standard", sparsity_coefficient=0.1, mse_reduction="mean", use_ghost_grads=True
    ),
    "standard-no-b_dec": config("standard", sparsity_coefficient=0.7, apply_b_dec_to_input=False),
    "standard-ghost": config("standard", sparsity_coefficient=0.7, use_ghost_grads=True),
    "gated": config("gated", sparsity_coefficient=0.7),
    "gated-ghost": config("gated", sparsity_coefficient=0.7, use_ghost_grads=True),
    "topk": config("topk", k=5),
    "topk-rescaled": config("topk", k=5, rescale_acts_by_decoder_norm=True),
    "topk-ghost": config("topk", k=5, use_ghost_grads=True, aux_k_coefficient=0.5),
    "abstopk": config("abstopk", k=5),
    "batchtopk": config("batchtopk", k=3.7),
    "batchtopk-rescaled": config("batchtopk", k=5, rescale_acts_by_decoder_norm=True),
    "batchtopk-all": config("batchtopk", k=39),
    "matryoshka": config("matryoshka_batchtopk", k=6, matryoshka_widths=(5, 6, 20, 40)),
    "jumprelu": config("jumprelu", **JUMP),
    "jumprelu-tanh": config("jumprelu", **JUMP, jumprelu_sparsity_loss_mode="tanh"),
    "jumprelu-quadratic": config(
        "jumprelu", **JUMP, jumprelu_sparsity_loss_mode="quadratic", target_l0=4.0
    ),
    "pursuit": config("matching_pursuit", max_iterations=6, residual_threshold=0.9),
    "pursuit-on": config(
        "matching_pursuit",
        max_iterations=9,
        residual_threshold=0.0,
        stop_on_duplicate_support=False,
    ),
    "transcoder": config("transcoder", sparsity_coefficient=0.7),
    "skip_transcoder": config("skip_transcoder", sparsity_coefficient=0.7, use_ghost_grads=True),
    "jumprelu_transcoder": config("jumprelu_transcoder", **JUMP),
    "jumprelu_skip_transcoder": config("jumprelu_skip_transcoder", **JUMP),
}


def trainer_and_batch(name: str, seed: int = 0) -> tuple[SAETrainer, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sae = new_training_sae(CONFIGS[name], generator=generator)
    with torch.no_grad():
        for parameter in sae.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.1 * noise)
    x = torch.randn(ROWS, D_IN, generator=generator, dtype=torch.float64)
    y = torch.randn(ROWS, D_OUT, generator=generator, dtype=torch.float64)
    return SAETrainer(sae, OPTIMIZATION), x, y if CONFIGS[name].transcodes else x


def kill(trainer: SAETrainer, n: int) -> Tensor:
    """Let the first `n` features have been silent for longer than the window."""
    state = trainer.activity.state_dict()
    state["silent_steps"][:n] = 100
    trainer.activity.load_state_dict(state)
    return trainer.activity.dead


def test_every_architecture_is_tried() -> None:
    assert {c.architecture for c in CONFIGS.values()} == set(TRAINING_SAES)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("n_dead", [0, 3, 20])
def test_loss_and_gradients_equal_the_formula(
    name: str, n_dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_module, "SMALLEST_BLOCK", 24)  # three blocks, the last a short one
    monkeypatch.setattr(trainer_module, "BLOCK_BYTES", 0)
    trainer, x, y = trainer_and_batch(name)
    dead = kill(trainer, n_dead)
    losses, counts, residual = trainer._accumulate_gradients(x, y)
    ours = {n: p.grad.clone() for n, p in trainer.sae.named_parameters() if p.grad is not None}
    trainer.sae.zero_grad()
    # The first of two warm-up steps: half of the sparsity loss.
    expected, y_hat = reference_loss(trainer.sae, x, y, 0.5, dead)
    expected.backward()
    assert sum(losses.values()) == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(residual, (y - y_hat).detach())
    for parameter, tensor in trainer.sae.named_parameters():
        if tensor.requires_grad:
            theirs = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
            torch.testing.assert_close(ours[parameter], theirs)
    assert counts.sum() > 0


@pytest.mark.parametrize("name", CONFIGS)
def test_firing_counts_are_those_of_the_activations(name: str) -> None:
    trainer, x, y = trainer_and_batch(name)
    acts = trainer.sae(x, y, sparsity=1.0).acts
    dense = acts.dense()
    assert dense.shape == (ROWS, D_SAE)
    for threshold in (0.0, 0.3):
        expected = (dense.abs() > threshold).sum(0).float()
        torch.testing.assert_close(acts.count_firing(threshold), expected)
    if CONFIGS[name].k:
        at_most = int(CONFIGS[name].k * ROWS)
        assert 0 < (dense != 0).sum() <= at_most


@pytest.mark.parametrize("name", CONFIGS)
def test_a_taken_up_trainer_goes_on_bit_for_bit(name: str) -> None:
    trainer, x, y = trainer_and_batch(name)
    other, _, _ = trainer_and_batch(name, seed=1)
    trainer.train_step(x, 10, y)
    other.load_state_dict(trainer.state_dict())
    for _ in range(3):
        assert trainer.train_step(x, 10, y) == other.train_step(x, 10, y)
    for key, value in trainer.sae.state_dict().items():
        assert torch.equal(value, other.sae.state_dict()[key])


@pytest.mark.parametrize("name", ["batchtopk", "batchtopk-rescaled", "matryoshka"])
def test_the_threshold_follows_the_smallest_activation_of_each_batch(name: str) -> None:
    trainer, x, y = trainer_and_batch(name)
    expected = None
    for step in range(4):
        batch = (1 + step) * x
        least = float(trainer.sae(batch, batch, sparsity=1.0).acts.values.min())
        expected = least if expected is None else 0.99 * expected + 0.01 * least
        assert float(trainer.sae.threshold) == pytest.approx(expected)
    saved = trainer.sae.saved_state()["threshold"]
    torch.testing.assert_close(saved, torch.full((D_SAE,), expected, dtype=torch.float64))
    trainer.sae.eval()
    trainer.sae(10 * x, 10 * y, sparsity=1.0)
    assert float(trainer.sae.threshold) == pytest.approx(expected)


@pytest.mark.parametrize("guess", [float("inf"), 1e-9, 0.5, 2.0, 100.0])
def test_the_largest_of_a_batch_are_found_whatever_the_guess(guess: float) -> None:
    from saekit_trainer.architectures.batchtopk import _largest_places

    p = torch.randn(30, 40, generator=torch.Generator().manual_seed(0))
    for n in (1, 90, 500, 1100):
        places = _largest_places(p, n, guess)
        expected = p.clamp_min(0).flatten().topk(n).indices
        expected = expected[p.flatten()[expected] > 0].sort().values
        assert torch.equal(places, expected)


def test_decoder_rows_stay_unit_vectors_and_gradients_orthogonal_to_them() -> None:
    trainer, x, y = trainer_and_batch("topk")
    sae = trainer.sae
    sae.renormalize_decoder()
    sae(x, y, sparsity=1.0).loss.backward()
    sae.project_decoder_gradient()
    assert sae.W_dec.grad is not None
    along = (sae.W_dec.grad * sae.W_dec).sum(1)
    torch.testing.assert_close(along, torch.zeros(D_SAE, dtype=torch.float64))
    torch.testing.assert_close(sae.decoder_norms(), torch.ones(D_SAE, dtype=torch.float64))


@pytest.mark.parametrize("unit", [True, False])
def test_normalize_sae_decoder_keeps_rows_at_norm_1(unit: bool) -> None:
    sae = new_training_sae(
        replace(CONFIGS["standard"], normalize_sae_decoder=unit, decoder_init_norm=0.3)
    )
    started = sae.decoder_norms().detach().clone()
    torch.testing.assert_close(started, torch.full_like(started, 1.0 if unit else 0.3))
    trainer = SAETrainer(sae, OPTIMIZATION)
    x = torch.randn(ROWS, D_IN, dtype=torch.float64)
    for _ in range(3):
        trainer.train_step(x, 10)
    moved = (sae.decoder_norms() - started).abs().max()
    assert moved < 1e-12 if unit else moved > 1e-3


def test_ghost_gradients_bring_dead_features_back() -> None:
    alive = {}
    for ghosts in (True, False):
        generator = torch.Generator().manual_seed(0)
        sae = new_training_sae(
            replace(CONFIGS["standard"], use_ghost_grads=ghosts), generator=generator
        )
        with torch.no_grad():
            sae.b_enc[:10] = -3.0  # far below anything that x reaches
        trainer = SAETrainer(sae, OPTIMIZATION)
        x = torch.randn(ROWS, D_IN, generator=generator, dtype=torch.float64)
        for _ in range(60):
            last = trainer.train_step(x, 60)
        assert ("ghost_grad_loss" in last.losses) <= ghosts
        alive[ghosts] = D_SAE - last.dead_features
    assert alive[True] > alive[False] + 5


def test_ghost_gradients_do_not_overflow() -> None:
    trainer, x, y = trainer_and_batch("standard-ghost")
    kill(trainer, 5)
    metrics = trainer.train_step(1e4 * x, 10, 1e4 * y)
    assert metrics.losses["ghost_grad_loss"] > 0
    assert all(p.isfinite().all() for p in trainer.sae.parameters())
