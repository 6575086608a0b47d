"""Dead features, density, and the geometric median."""

from __future__ import annotations

import pytest
import torch

from saekit_trainer.feature_activity import FeatureActivity
from saekit_trainer.geometric_median import geometric_median, initial_decoder_bias


def test_a_feature_is_dead_after_the_window_and_alive_when_it_fires_again() -> None:
    activity = FeatureActivity(2, dead_window=3, sampling_window=10, device="cpu")
    for _ in range(2):
        activity.update(torch.tensor([1.0, 0.0]), tokens=4)
        assert activity.dead.tolist() == [False, False]
    activity.update(torch.tensor([1.0, 0.0]), tokens=4)
    assert activity.dead.tolist() == [False, True]
    activity.update(torch.tensor([0.0, 2.0]), tokens=4)
    assert activity.dead.tolist() == [False, False]


def test_density_is_that_of_the_sampling_window() -> None:
    activity = FeatureActivity(1, dead_window=3, sampling_window=4, device="cpu")
    for fired in (8.0, 8.0, 8.0, 8.0, 0.0, 0.0, 0.0, 2.0):
        activity.update(torch.tensor([fired]), tokens=8)
    assert activity.density.tolist() == [2 / 32]


def test_the_geometric_median_is_where_the_sum_of_distances_is_least() -> None:
    x = torch.randn(200, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:10] *= 1000  # the mean follows these
    median = geometric_median(x)
    unit = x - median
    gradient = (unit / unit.norm(dim=1, keepdim=True)).sum(0)
    assert gradient.norm() < 1e-3
    assert median.norm() < 1 < x.mean(0).norm()
    assert torch.equal(initial_decoder_bias(x, "geometric_median"), median)
    assert torch.equal(initial_decoder_bias(x, "mean"), x.mean(0))
    assert not initial_decoder_bias(x, "zeros").any()


def test_a_long_sampling_window_moves_by_sixteenths() -> None:
    activity = FeatureActivity(1, dead_window=3, sampling_window=100, device="cpu")
    assert activity.density.tolist() == [0.0]
    for step in range(200):
        activity.update(torch.tensor([8.0 if step < 100 else 2.0]), tokens=8)
    assert activity.density.item() == pytest.approx(0.25, abs=0.05)
