"""Figures of reconstructions and of feature activations, over batches and at the edges."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from saekit_core.sae.statistics import (
    FeatureStats,
    ReconstructionStats,
    count_active,
    explained_variance,
)


def pair(rows: int = 300, d: int = 7) -> tuple[Tensor, Tensor]:
    """Activations far from the origin, and reconstructions with some error."""
    generator = torch.Generator().manual_seed(0)
    x = 100 + torch.randn(rows, d, generator=generator)
    return x, 0.9 * x + 0.3 * torch.randn(rows, d, generator=generator)


def test_figures_over_batches_are_those_of_all_rows() -> None:
    x, x_hat = pair()
    stats = ReconstructionStats()
    for a, b in zip(x.split(64), x_hat.split(64), strict=True):
        stats.add(a, b)
    wide, wide_hat = x.double(), x_hat.double()
    norm, norm_hat = wide.norm(dim=1), wide_hat.norm(dim=1)
    error = (wide - wide_hat).square().sum(1).mean()
    variance = wide.var(dim=0, correction=0).sum()
    expected = {
        "explained_variance": 1 - error / variance,
        "mse": error,
        "cosine_similarity": torch.cosine_similarity(wide, wide_hat).mean(),
        "shrinkage": norm_hat.mean() / norm.mean(),
        "l2_ratio": (norm_hat / norm).mean(),
        "relative_reconstruction_bias": norm_hat.square().mean() / (wide * wide_hat).sum(1).mean(),
    }
    for name, value in expected.items():
        assert getattr(stats, name) == pytest.approx(float(value), rel=1e-9), name
    assert explained_variance(x, x_hat) == pytest.approx(stats.explained_variance)


def test_explained_variance_is_its_formula() -> None:
    y = torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 4.0]])
    z = torch.tensor([[0.0, 1.5], [1.0, 1.0], [4.0, 4.0]])
    # errors 0.25 and 1 over 3 tokens; E|y|^2 = 38/3, |E y|^2 = 4 + 4
    assert explained_variance(y, z) == pytest.approx(1 - (1.25 / 3) / (38 / 3 - 8))
    assert explained_variance(y, y.mean(0).expand_as(y)) == pytest.approx(0.0, abs=1e-12)


def test_rows_of_zeros_give_finite_figures() -> None:
    stats = ReconstructionStats()
    stats.add(torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([[0.0, 2.0], [0.0, 0.0]]))
    assert stats.cosine_similarity == 0.0
    assert stats.l2_ratio == 1.0  # 2/1 and 0/5
    assert stats.shrinkage == 2 / 5


def test_nothing_counted_is_no_number() -> None:
    stats, features = ReconstructionStats(), FeatureStats()
    assert math.isnan(stats.explained_variance)
    assert math.isnan(stats.mse)
    assert math.isnan(features.l0)
    assert math.isnan(features.l1)
    assert features.alive == 0
    assert features.density.shape == (0,)
    constant = torch.ones(5, 3)
    assert math.isnan(explained_variance(constant, constant))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_of_either_sign_are_active(dtype: torch.dtype) -> None:
    stats = FeatureStats()
    stats.add(torch.tensor([[0.5, 0.0, -2.0], [0.0, 0.0, 1.0]], dtype=dtype))
    stats.add(torch.tensor([[0.0, 0.0, -0.25]], dtype=dtype))
    assert stats.rows == 3
    assert stats.l0 == pytest.approx(4 / 3)
    assert stats.l1 == pytest.approx(3.75 / 3)
    assert stats.alive == 2
    torch.testing.assert_close(stats.density, torch.tensor([1 / 3, 0, 1], dtype=torch.float64))


def test_count_active_counts_either_sign_above_the_threshold() -> None:
    acts = torch.tensor([[0.5, 0.0, -2.0], [0.05, 0.0, 1.0]])
    assert count_active(acts, 0.1).tolist() == [1.0, 0.0, 2.0]
