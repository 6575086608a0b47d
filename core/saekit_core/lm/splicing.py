"""Executing the interventions of a batch inside one forward pass.

At an SAE's hook point x = h is read, and h' = h + [D(a') - D(a)] is written where it belongs. D is
affine in a, so the bracket is output_scale * sum over edited features of (a'_f - a_f) * w_f for
every architecture, normalisation included; without the error term h is replaced by D(a) before
brackets are added. All arithmetic is float32, cast to h's dtype once. A position at which no
difference comes out keeps h bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from operator import ge

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saekit_core.lm.additions import additions, open_from
from saekit_core.lm.batch_layout import BatchLayout, OpBuffers
from saekit_core.lm.hook_points import HookPoint, Tap
from saekit_core.lm.intervention_rows import InterventionRow
from saekit_core.lm.interventions import Stop
from saekit_core.lm.sae_reading import SAEReading, read_sae
from saekit_core.lm.splice_buffers import (
    DirectionRound,
    SAEGroup,
    Triggers,
    direction_rounds,
    sae_groups,
)

SMALLEST_SCALE = 1e-12
"""Keeps an edit in residual norm what it is where layer_norm meets activations without variance."""


@dataclass(frozen=True)
class StopEvent:
    """A `Stop` condition fired."""

    position: int
    """Absolute position of the token at which it fired."""
    condition: int
    """Index into the row's conditions."""
    activation: float
    """The trigger's activation there."""


@dataclass(frozen=True, eq=False)
class _Bracket:
    """What one group of rows changes at the hook point it writes."""

    group: SAEGroup
    difference: Tensor
    """`[r, P, d_out]` float32."""
    touched: Tensor
    """`[r, P]`."""
    replaced: Tensor | None
    """`[r, P]`: where `reconstruction` stands in for h."""
    reconstruction: Tensor | None


class BatchedInterventions:
    """The interventions of the rows of one batch.

    May be used for any number of runs in turn (the chunks of a prefill, the steps of a decode) as
    long as the rows stay the same; what must outlive that lies in the rows. Each run is
    `taps(...)`, the forward pass, then `finish()`.

    Attributes:
        stops: after `finish`, per row the first position at which a `Stop` fired, or None.
        watched: after `finish`, per row float32 `[count, n_watch]`: unedited activations at the
            positions that were run, as E(h) of the h that came in at the SAE's hook point.
        reads_special: whether anything here depends on which generated tokens are special ones.
    """

    @torch.no_grad()
    def __init__(self, rows: Sequence[InterventionRow], device: torch.device) -> None:
        self.stops: list[StopEvent | None] = []
        self.watched: list[NDArray[np.float32]] = []
        self._rows = tuple(rows)
        self._device = device
        self._layout = BatchLayout(self._rows, device)
        self._groups = sae_groups(self._layout)
        self._directions = direction_rounds(self._layout)
        self._additions = additions(self._layout)
        self._added_everywhere: frozenset[HookPoint] = frozenset()
        self._idle = all(row.idle for row in rows)
        self.reads_special = any(
            positions.generated and not positions.generated_special
            for row in rows
            for positions in row.selections
        )
        self._preserve = torch.tensor([row.preserve_norm for row in rows], device=device)
        self._preserves = any(row.preserve_norm for row in rows)
        self._readers: dict[HookPoint, list[SAEGroup]] = {}
        written: set[HookPoint] = set(self._directions)
        for group in self._groups:
            self._readers.setdefault(group.sae.hook, []).append(group)
            if group.writes:
                written.add(group.sae.hook_out)
        self._written = frozenset(written)
        self._open_from = None if self._readers or self._written else open_from(self._rows)
        self._starts: tuple[int, ...] = ()
        self._counts: tuple[int, ...] = ()
        self._gates = torch.zeros((0, 0), dtype=torch.bool)
        self._pending: dict[HookPoint, list[_Bracket]] = {}
        self._watch_values: dict[SAEGroup, Tensor] = {}
        self._hits: dict[SAEGroup, tuple[Tensor, Tensor, Tensor]] = {}

    def taps(
        self,
        starts: Sequence[int],
        counts: Sequence[int],
        width: int,
        special: NDArray[np.bool_] | None = None,
    ) -> dict[HookPoint, Tap]:
        """Taps for a run of positions `starts[r] .. starts[r] + counts[r]` of each row.

        Args:
            starts: absolute position of the first token of each row.
            counts: real tokens in each row; what lies behind them up to `width` is padding and
                is neither edited nor looked at.
            width: padded positions P.
            special: `[rows, width]`, which of these tokens are special ones; looked at for
                generated positions, and needed where `reads_special`.
        """
        self._starts, self._counts = tuple(starts), tuple(counts)
        self._pending, self._watch_values, self._hits = {}, {}, {}
        if self._idle:
            return {}
        if self._is_settled(starts, width, special):
            return {hook: added.add_everywhere for hook, added in self._additions.items()}
        known = self._layout.gates(starts, counts, width, special)
        self._added_everywhere = frozenset(
            hook for hook, added in self._additions.items() if added.everywhere(known)
        )
        if self._readers or self._written or len(self._added_everywhere) < len(self._additions):
            self._open_gates(torch.from_numpy(known))
        tapped = self._readers.keys() | self._written | self._additions.keys()
        hooks = sorted(tapped, key=lambda hook: hook.depth)
        return {hook: partial(self._tap, hook) for hook in hooks}

    def _is_settled(
        self, starts: Sequence[int], width: int, special: NDArray[np.bool_] | None
    ) -> bool:
        """Whether a decode step adds everything everywhere: most do, and no gate need be made."""
        return (
            self._open_from is not None
            and width == 1
            and all(map(ge, starts, self._open_from))
            and (special is None or not special.any())
        )

    def _open_gates(self, gates: Tensor) -> None:
        if self._gates.shape == gates.shape:
            self._gates.copy_(gates)
        else:
            self._gates = gates.to(self._device)

    def finish(self) -> None:
        """Bring the results of the run to the host and remember what lasts in the rows."""
        self.watched = [
            np.zeros((count, len(row.watch)), np.float32)
            for row, count in zip(self._rows, self._counts, strict=True)
        ]
        self.stops = [None] * len(self._rows)
        for group, values in self._watch_values.items():
            watched = values.cpu().numpy()
            for (row, number), series in zip(group.watch_owners, watched, strict=True):
                self.watched[row][:, number] = series[: self._counts[row]]
        for group, (hits, activations, lasting) in self._hits.items():
            if group.triggers is not None:
                group.triggers.latched.copy_(lasting)
                self._take_hits(group.triggers, hits, activations)

    def _take_hits(self, triggers: Triggers, hits: Tensor, values: Tensor) -> None:
        fired = hits.any(dim=1).cpu().numpy()
        first = hits.to(torch.uint8).argmax(dim=1, keepdim=True)
        position = first[:, 0].cpu().numpy()
        activation = values.gather(1, first)[:, 0].cpu().numpy()
        for index in np.flatnonzero(fired):
            row, number = triggers.owners[index]
            action = self._rows[row].conditions[number].condition.action
            if not isinstance(action, Stop):
                # Harmless for ApplyHere, which no later chunk asks about.
                self._rows[row].latched[number] = True
                continue
            event = StopEvent(
                self._starts[row] + int(position[index]), number, float(activation[index])
            )
            earlier = self.stops[row]
            if earlier is None or (event.position, number) < (earlier.position, earlier.condition):
                self.stops[row] = event

    @torch.no_grad()
    def _tap(self, hook: HookPoint, h: Tensor) -> Tensor | None:
        flat = h.flatten(2)
        # All reading comes before all writing, so that every trigger is known to every edit.
        readings = [(group, self._read(group, flat)) for group in self._readers.get(hook, ())]
        for group, reading in readings:
            if group.writes:
                bracket = self._bracket(group, reading)
                self._pending.setdefault(group.sae.hook_out, []).append(bracket)
        new = flat
        if hook in self._written:
            new = self._write(hook, flat, self._pending.pop(hook, []))
        if (added := self._additions.get(hook)) is not None:
            # Rows of their own: no other edit is behind or before what they add.
            new = added.add(new, None if hook in self._added_everywhere else self._gates)
        return None if new is flat else new.view(h.shape)

    def _read(self, group: SAEGroup, flat: Tensor) -> SAEReading:
        """Read the group's SAE, note what is watched, and open the gates of conditions."""
        reading = read_sae(group, flat)
        if group.watch_owners:
            self._watch_values[group] = reading.acts[group.watch_member, :, group.watch_column]
        if group.triggers is not None:
            self._hits[group] = self._fire(group.triggers, reading.acts)
        return reading

    def _fire(self, triggers: Triggers, acts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Open the gates of conditions.

        Returns where they fired and the activations, `[T, P]`, and which will be latched,
        `[T, 1]`: only `finish` latches them, so that a run that failed can be repeated.
        """
        values = acts[triggers.member, :, triggers.column]
        hits = (values > triggers.threshold) & self._gates[triggers.at]
        lasting = (hits.cumsum(dim=1) > 0) | triggers.latched
        self._gates[triggers.gate] = torch.where(triggers.lasting, lasting, hits)
        return hits, values, lasting[:, -1:]

    def _open(self, op: OpBuffers) -> Tensor:
        """`[r, ..., P]`: where the gates of an op are both open."""
        return self._gates[op.at] & self._gates[op.when]

    def _bracket(self, group: SAEGroup, reading: SAEReading) -> _Bracket:
        acts = reading.acts.transpose(1, 2)
        scale = reading.output_scale
        if scale is not None:
            scale = scale.float().clamp(min=SMALLEST_SCALE)
        delta = torch.zeros_like(acts)
        for op, residual in zip(group.rounds, group.residual_shifts, strict=True):
            shift = residual[..., None]
            if scale is not None:
                shift = shift / scale.transpose(1, 2)
            active = self._open(op)
            delta = op.moved(acts, delta, op.shift[..., None] + shift, active)
        difference = torch.bmm(delta.transpose(1, 2), group.decoder)
        if scale is not None:
            difference = difference * scale
        touched = (delta != 0).any(dim=1)
        replaced = None
        if group.replaced_at is not None:
            replaced = self._gates[group.replaced_at]
            touched = touched | replaced
        return _Bracket(group, difference, touched, replaced, reading.reconstruction)

    def _write(self, hook: HookPoint, flat: Tensor, brackets: list[_Bracket]) -> Tensor:
        """`[R, P, d]`: the activations with everything applied."""
        new = flat.to(torch.promote_types(flat.dtype, torch.float32), copy=True)
        touched = torch.zeros(flat.shape[:2], dtype=torch.bool, device=flat.device)
        for bracket in brackets:
            if bracket.replaced is not None and bracket.reconstruction is not None:
                part, where = _part(new, hook, bracket.group)
                h = part[where]
                stand_in = bracket.group.sae.stand_in(bracket.reconstruction.to(new.dtype), h)
                part[where] = torch.where(bracket.replaced[..., None], stand_in, h)
        for bracket in brackets:
            part, where = _part(new, hook, bracket.group)
            # Where nothing is edited a junk scale may have made the difference NaN.
            part[where] += torch.where(bracket.touched[..., None], bracket.difference, 0.0)
            touched[where] |= bracket.touched
        for step in self._directions.get(hook, ()):
            self._turn(step, new, touched)
        if self._preserves:
            old_norm = flat.to(new.dtype).norm(dim=-1)
            new_norm = new.norm(dim=-1)
            rescale = self._preserve[:, None] & (new_norm > 0)
            new *= torch.where(rescale, old_norm / new_norm, 1.0)[..., None]
        return torch.where(touched[..., None], new.to(flat.dtype), flat)

    def _turn(self, step: DirectionRound, new: Tensor, touched: Tensor) -> None:
        """One round of direction edits, in place."""
        unit = step.unit.to(new.dtype)
        along = torch.einsum("rpd,rd->rp", new[step.rows], unit)
        active = self._open(step.op)
        delta = step.op.moved(along, torch.zeros_like(along), step.op.shift[..., None], active)
        new[step.rows] += delta[..., None] * unit[:, None]
        touched[step.rows] |= delta != 0


def _part(new: Tensor, hook: HookPoint, group: SAEGroup) -> tuple[Tensor, Tensor | slice]:
    """The columns of `new` that a group writes (a view), and the index of its rows."""
    return new[..., group.sae.columns(hook)], slice(None) if group.rows is None else group.rows
