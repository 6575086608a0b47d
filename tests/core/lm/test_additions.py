"""Rows that only add: the same as the one rule says, without reading an SAE."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from tests.core.lm.edit_support import HEADS, HOOK, D, bind, of_head, prompt, random_sae, same_bits
from torch import Tensor

from saekit_core.lm.intervention_rows import InterventionRow, idle_row, place
from saekit_core.lm.interventions import (
    AffineClip,
    BoundSAE,
    DirectionEdit,
    Edit,
    FeatureEdit,
    Interventions,
    Watch,
)
from saekit_core.lm.positions import PositionSelector
from saekit_core.lm.splicing import BatchedInterventions

ADD = AffineClip.add


def adding(*edits: Edit, watch: Sequence[Watch] = ()) -> InterventionRow:
    return place(Interventions(edits=edits), prompt(5), watch=watch, n_generated=8)


def step(
    rows: Sequence[InterventionRow], h: Tensor, *, start: int = 6
) -> tuple[Tensor, BatchedInterventions]:
    """`[R, 1, ...]` activations of generated positions, as one step leaves them."""
    batch = BatchedInterventions(rows, torch.device("cpu"))
    special = torch.zeros(len(rows), 1, dtype=torch.bool).numpy()
    (tap,) = batch.taps([start] * len(rows), [1] * len(rows), 1, special).values()
    new = tap(h)
    batch.finish()
    return h if new is None else new, batch


def activations(n_rows: int, dtype: torch.dtype = torch.float32) -> Tensor:
    h = torch.randn(n_rows, 1, D, generator=torch.Generator().manual_seed(5)).to(dtype)
    h[..., ::3] = -0.0
    return h


@pytest.fixture
def sae() -> BoundSAE:
    return bind(random_sae("jumprelu", seed=4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_row_gets_its_own_and_the_others_keep_every_bit(
    sae: BoundSAE, dtype: torch.dtype
) -> None:
    vector = torch.arange(D) - 3.5
    rows = [
        adding(FeatureEdit(sae, 3, ADD(2.0)), FeatureEdit(sae, 3, ADD(0.5))),
        idle_row(),
        adding(FeatureEdit(sae, 7, ADD(1.5), unit_norm=True), DirectionEdit(HOOK, vector, ADD(-2))),
        adding(FeatureEdit(sae, 9, ADD(0.0))),
        adding(FeatureEdit(sae, 5, AffineClip.set_to(4.0))),
    ]
    h = activations(5, dtype)
    new, _ = step(rows, h)
    w = sae.sae.W_dec.detach()
    first = (h[0, 0].float() + 2.5 * w[3]).to(dtype)
    torch.testing.assert_close(new[0, 0], first)
    moved = h[2, 0].float() + 1.5 * w[7] / w[7].norm() - 2 * vector
    torch.testing.assert_close(new[2, 0], moved.to(dtype))
    assert same_bits(new[[1, 3]], h[[1, 3]])
    bracket = (4.0 - sae.sae.encode(h[4, 0].float())[5]) * w[5]
    torch.testing.assert_close(new[4, 0], (h[4, 0].float() + bracket).to(dtype))


def test_positions_that_are_not_selected_keep_every_bit(sae: BoundSAE) -> None:
    late = PositionSelector(ranges=((8, None),))
    rows = [
        adding(FeatureEdit(sae, 3, ADD(2.0), positions=late), FeatureEdit(sae, 4, ADD(1.0))),
        adding(FeatureEdit(sae, 6, ADD(3.0), positions=late)),
    ]
    h, w = activations(2), sae.sae.W_dec.detach()
    early, _ = step(rows, h, start=6)
    torch.testing.assert_close(early[0, 0], h[0, 0] + w[4])
    assert same_bits(early[1], h[1])
    later, _ = step(rows, h, start=8)
    torch.testing.assert_close(later[0, 0], h[0, 0] + 2 * w[3] + w[4])
    torch.testing.assert_close(later[1, 0], h[1, 0] + 3 * w[6])


def test_a_step_of_additions_alone_makes_no_gates_once_all_are_open(sae: BoundSAE) -> None:
    late = PositionSelector(ranges=((8, None),), include_special=False)
    plain = PositionSelector(include_special=False)
    row = adding(
        FeatureEdit(sae, 3, ADD(2.0), positions=late),
        FeatureEdit(sae, 4, ADD(1.0), positions=plain),
    )
    batch = BatchedInterventions([row, idle_row()], torch.device("cpu"))
    h = activations(2)
    asked: list[int] = []
    gates = batch._layout.gates
    batch._layout.gates = lambda *args: asked.append(args[0][0]) or gates(*args)

    def new(start: int, *special: bool) -> Tensor:
        marks = np.array([special]).T
        (tap,) = batch.taps([start, start], [1, 1], 1, marks).values()
        return tap(h)

    w = sae.sae.W_dec.detach()
    for start, moved in ((7, w[4]), (8, 2 * w[3] + w[4]), (9, 2 * w[3] + w[4])):
        torch.testing.assert_close(new(start, False, False)[0, 0], h[0, 0] + moved)
    assert asked == [7]
    assert same_bits(new(9, True, False), h)  # a special token, which no selector names
    assert asked == [7, 9]


def test_what_is_watched_beside_it_is_read_before_it_is_added(sae: BoundSAE) -> None:
    h = activations(1)
    row = adding(FeatureEdit(sae, 3, ADD(9.0)), watch=[Watch(sae, 3), Watch(sae, 8)])
    _, batch = step([row], h)
    expected = sae.sae.encode(h[0])[:, [3, 8]]
    torch.testing.assert_close(torch.from_numpy(batch.watched[0]), expected.detach())


def test_an_sae_of_one_head_adds_to_that_head_alone() -> None:
    d_head = HEADS.shape[1]
    sae = bind(of_head(random_sae(seed=2, d_in=d_head), 1), HEADS)
    h = activations(1).view(1, 1, *HEADS.shape)
    new, _ = step([adding(FeatureEdit(sae, 3, ADD(2.0)))], h)
    torch.testing.assert_close(new[0, 0, 1], h[0, 0, 1] + 2 * sae.sae.W_dec[3].detach())
    others = [0, 2, 3]
    assert same_bits(new[:, :, others], h[:, :, others])


def test_an_sae_that_rescales_activations_is_read() -> None:
    scaled = bind(random_sae("standard", "layer_norm", seed=1))
    h = activations(1)
    new, _ = step([adding(FeatureEdit(scaled, 3, ADD(2.0)))], h)
    expected = h[0, 0] + 2 * h[0, 0].std() * scaled.sae.W_dec[3].detach()
    torch.testing.assert_close(new[0, 0], expected)
