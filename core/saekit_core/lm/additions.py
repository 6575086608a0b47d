"""Rows whose edits do nothing but add: what they add is known before the run, no SAE is read.

By the one rule h' = h + [D(a') - D(a)], and an ADD of s makes the bracket s * w whatever a is,
unless a normalisation of the run's own activations scales it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saekit_core.lm.batch_layout import SHUT, BatchLayout
from saekit_core.lm.hook_points import HookPoint
from saekit_core.lm.intervention_rows import InterventionRow
from saekit_core.lm.interventions import DirectionEdit, Edit
from saekit_core.sae.normalization import STATE_OF_NORMALIZATION


@dataclass(frozen=True, eq=False)
class Additions:
    """What the rows of a batch add at one hook point."""

    shift: Tensor
    """`[R, K]` float32; 0 where a row has fewer than K."""
    along: Tensor
    """`[R, K, d]` float32: what each shift counts in."""
    at: Tensor
    """`[R, K]` position gates."""
    listed: NDArray[np.int64]
    """`[n]`: the gates that anything depends on."""
    total: Tensor
    """`[R, 1, d]`: the sum where all gates are open; -0, which changes no bit, elsewhere."""

    def everywhere(self, gates: NDArray[np.bool_]) -> bool:
        """Whether all is added at all positions: `gates` are the host's."""
        return bool(gates[self.listed].all())

    def add(self, h: Tensor, gates: Tensor | None) -> Tensor:
        """`[R, P, d]` with everything added in float32 and cast once; gates None: all open."""
        wide = h.to(torch.promote_types(h.dtype, torch.float32))
        if gates is None:
            return (wide + self.total).to(h.dtype)
        active = gates[self.at]
        delta = torch.where(active, self.shift[..., None], 0.0)
        new = wide + torch.bmm(delta.transpose(1, 2), self.along)
        return torch.where((delta != 0).any(dim=1)[..., None], new.to(h.dtype), h)

    def add_everywhere(self, h: Tensor) -> Tensor:
        """As `add` with all gates open, for h `[R, 1, ...]` with heads or without."""
        wide = h.to(torch.promote_types(h.dtype, torch.float32))
        return (wide + self.total.view(len(h), 1, *h.shape[2:])).to(h.dtype)


def only_adds(row: InterventionRow) -> bool:
    """Whether all that a row changes is known before it runs."""
    fixed = not (row.conditions or row.replaced or row.preserve_norm)
    return fixed and all(_known(placed.edit) for placed in row.edits)


def additions(layout: BatchLayout) -> dict[HookPoint, Additions]:
    """What the rows that `only_adds` add, per hook point that they write."""
    found: dict[HookPoint, list[list[tuple[float, Tensor, int]]]] = {}
    for index, row in enumerate(layout.rows):
        if not only_adds(row):
            continue
        for placed in row.edits:
            hook, shift, along = _addition(placed.edit, layout.device)
            if shift:
                rows = found.setdefault(hook, [[] for _ in layout.rows])
                rows[index].append((shift, along, layout.selection(index, placed.at)))
    return {hook: _stacked(layout, hook, rows) for hook, rows in found.items()}


def open_from(rows: Sequence[InterventionRow]) -> list[int] | None:
    """Per row the position from which every selection covers all but special tokens.

    None: some never do.
    """
    starts = [[positions.open_from for positions in row.selections] for row in rows]
    if any(start is None for own in starts for start in own):
        return None
    return [max((start or 0 for start in own), default=0) for own in starts]


def _known(edit: Edit) -> bool:
    if not edit.op.only_adds:
        return False
    if isinstance(edit, DirectionEdit) or edit.unit_norm:
        return True
    return edit.sae.sae.cfg.normalize_activations not in _SCALED


_SCALED = frozenset(STATE_OF_NORMALIZATION) | {"constant_scalar_rescale"}


def _addition(edit: Edit, device: torch.device) -> tuple[HookPoint, float, Tensor]:
    """Where an edit adds, how much, and of what `[d]`: NaN in columns that are not its own."""
    if isinstance(edit, DirectionEdit):
        unit = (edit.vector.to("cpu", torch.float64) / edit.norm).to(device, torch.float32)
        return edit.hook, edit.op.shift * edit.norm, unit
    bound = edit.sae
    feature = torch.tensor([edit.feature], device=bound.sae.device)
    row = bound.sae.decoder_rows(feature)[0].to(device, torch.float32)
    along = row.new_full((bound.hook_out.d,), torch.nan)
    along[bound.columns(bound.hook_out)] = row / row.norm() if edit.unit_norm else row
    return bound.hook_out, edit.op.shift, along


def _stacked(
    layout: BatchLayout, hook: HookPoint, rows: list[list[tuple[float, Tensor, int]]]
) -> Additions:
    width = max(map(len, rows))
    shift = torch.zeros(len(rows), width)
    along = torch.full((len(rows), width, hook.d), torch.nan, device=layout.device)
    at = torch.full((len(rows), width), SHUT)
    for r, entries in enumerate(rows):
        for k, (amount, vector, gate) in enumerate(entries):
            shift[r, k], at[r, k] = amount, gate
            along[r, k] = vector
    shift, at = shift.to(layout.device), at.to(layout.device)
    written = along.isnan().logical_not_().any(dim=1, keepdim=True)
    along = along.nan_to_num(nan=0.0)
    total = torch.where(written, torch.bmm(shift[:, None], along), -0.0)
    listed = np.array([gate for entries in rows for _, _, gate in entries], np.int64)
    return Additions(shift, along, at, listed, total)
