"""Losses and gradients against float64 references written from the formulas."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.trainer.loss_cases import (
    CONFIGS,
    D_IN,
    D_SAE,
    OPTIMIZATION,
    ROWS,
    kill,
    trainer_and_batch,
)
from tests.trainer.loss_reference import reference_loss

from saekit_trainer import row_blocks
from saekit_trainer.architectures import TRAINING_SAES, new_training_sae, sparse_code
from saekit_trainer.architectures.sparse_code import few_above
from saekit_trainer.trainer import SAETrainer


def test_every_architecture_is_tried() -> None:
    assert {c.architecture for c in CONFIGS.values()} == set(TRAINING_SAES)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("n_dead", [0, 3, 20])
@pytest.mark.parametrize("sparse_share", [0.0, 1.0], ids=["dense", "sparse"])
def test_loss_and_gradients_equal_the_formula(
    name: str, n_dead: int, sparse_share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparse_code, "SPARSE_SHARE", sparse_share)
    monkeypatch.setattr(row_blocks, "SMALLEST_BLOCK", 24)  # three blocks, the last a short one
    monkeypatch.setattr(row_blocks, "BLOCK_BYTES", 0)
    monkeypatch.setattr(row_blocks, "SPARSE_BLOCK_BYTES", 0)
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
        before = trainer.sae.threshold.clone()
        least = trainer.sae(batch, batch, sparsity=1.0).acts.values.min().item()
        assert torch.equal(trainer.sae.threshold, before)  # a step that fails leaves it there
        trainer.sae.constrain()
        expected = least if expected is None else 0.99 * expected + 0.01 * least
        assert float(trainer.sae.threshold) == pytest.approx(expected)
    saved = trainer.sae.saved_state()["threshold"]
    torch.testing.assert_close(saved, torch.full((D_SAE,), expected, dtype=torch.float64))
    trainer.sae.eval()
    trainer.sae(10 * x, 10 * y, sparsity=1.0)
    trainer.sae.constrain()
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


@pytest.mark.parametrize("bound", [0.5, torch.linspace(0.0, 2.0, 40)])
def test_sums_over_entries_are_made_where_few_are_active(bound: float | torch.Tensor) -> None:
    p = torch.randn(200, 40, generator=torch.Generator().manual_seed(0))
    assert few_above(p, bound) is None  # a third or more
    p[:, 3:] -= 9
    entries = few_above(p, bound)
    assert entries is not None
    active = (p > bound).nonzero()
    assert torch.equal(torch.stack((entries.rows, entries.features), dim=1), active)
    order, starts = entries.by_feature
    assert torch.equal(active[order][:, 1], active[:, 1].sort(stable=True).values)
    assert starts[:4].tolist() == [0, *(p > bound).sum(0).cumsum(0)[:3].tolist()]
    # Few in the rows that are looked at first, and many in the others.
    p[100:] += 18
    assert few_above(p, bound) is None


def test_blocks_grow_once_few_features_are_active(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_blocks, "SMALLEST_BLOCK", 10)
    monkeypatch.setattr(row_blocks, "BLOCK_BYTES", 0)
    blocks = {}
    for bias in (0.0, -9.0):
        trainer, x, y = trainer_and_batch("standard")
        with torch.no_grad():
            trainer.sae.b_enc.fill_(bias)
        seen = blocks[bias] = []
        trainer.sae.register_forward_pre_hook(lambda _, args, s=seen: s.append(len(args[0])))
        trainer.train_step(x, 10, y)
    assert blocks == {0.0: [10] * 6 + [4], -9.0: [10, 54]}


def test_thresholds_do_not_go_below_0() -> None:
    trainer, x, y = trainer_and_batch("jumprelu")
    with torch.no_grad():
        trainer.sae.threshold.fill_(1e-4)
        trainer.sae.b_enc.sub_(0.2)  # features that would rather be larger
    trainer.config = replace(trainer.config, sparsity_warm_up_steps=10**6)
    lowest = []
    for _ in range(5):
        trainer.train_step(x, 10, y)
        lowest.append(trainer.sae.threshold.min().item())
    assert min(lowest) == 0.0
    assert torch.equal(trainer.sae.saved_state()["threshold"], trainer.sae.threshold)


def test_decoder_rows_stay_unit_vectors_and_gradients_orthogonal_to_them() -> None:
    _, x, y = trainer_and_batch("topk")
    sae = new_training_sae(replace(CONFIGS["topk"], normalize_sae_decoder=True))
    with torch.no_grad():
        sae.W_dec.mul_(3)
    sae.constrain()
    sae(x, y, sparsity=1.0).loss.backward()
    sae.project_gradient()
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
