"""The interventions of a batch as tensors, grouped by what they read."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from itertools import zip_longest

import torch
from torch import Tensor

from saekit_core.lm.additions import only_adds
from saekit_core.lm.batch_layout import SHUT, BatchLayout, OpBuffers
from saekit_core.lm.hook_points import HookPoint
from saekit_core.lm.intervention_rows import PlacedEdit
from saekit_core.lm.interventions import (
    AffineClip,
    ApplyFromHere,
    BoundSAE,
    DirectionEdit,
    FeatureEdit,
)

IDENTITY = AffineClip()


@dataclass(frozen=True, eq=False)
class Triggers:
    """The conditions whose feature one group of SAE rows reads: T of them."""

    member: Tensor
    """`[T]` index into the group's rows."""
    column: Tensor
    """`[T]` index into the group's features."""
    threshold: Tensor
    """`[T, 1]`."""
    at: Tensor
    """`[T]` gate of the positions that are looked at."""
    gate: Tensor
    """`[T]` gate that says where the condition holds."""
    lasting: Tensor
    """`[T, 1]` whether it holds from its first position on."""
    latched: Tensor
    """`[T, 1]` whether a lasting one has fired in an earlier run; written after each."""
    owners: tuple[tuple[int, int], ...]
    """(row, index of the condition) of each."""


@dataclass(frozen=True, eq=False)
class SAEGroup:
    """The rows of a batch that read one SAE, with or without its error term."""

    sae: BoundSAE
    rows: Tensor | None
    """`[r]` indices into the batch, or None where it is all of them in order."""
    features: Tensor
    """`[r, K]` features read, padded with 0."""
    decoder: Tensor
    """`[r, K, d_out]` float32 decoder rows."""
    rounds: tuple[OpBuffers, ...]
    """The n-th edit of each feature is in round n; between different features order is moot."""
    residual_shifts: tuple[Tensor, ...]
    """Per round `[r, K]`: shifts in residual norm, divided by the decoder row's norm already."""
    triggers: Triggers | None
    watch_member: Tensor
    watch_column: Tensor
    watch_owners: tuple[tuple[int, int], ...]
    """(row, index of the watch) of each watched feature."""
    replaced_at: Tensor | None
    """`[r]` gates where the activations are replaced by the SAE's output; None: nowhere."""

    @property
    def writes(self) -> bool:
        return bool(self.rounds) or self.replaced_at is not None


@dataclass(frozen=True, eq=False)
class DirectionRound:
    """The n-th direction edit at a hook point of each row that has as many."""

    rows: Tensor
    """`[r]`."""
    unit: Tensor
    """`[r, d]` float32 unit vectors."""
    op: OpBuffers
    """Each `[r]`; shifts are in units of the activations."""


@dataclass
class _Member:
    """One row of an SAE group while it is put together."""

    row: int
    replaced_at: int = SHUT
    columns: dict[int, int] = field(default_factory=dict)
    edits: dict[int, list[tuple[FeatureEdit, int, int]]] = field(default_factory=dict)
    watch: list[tuple[int, int]] = field(default_factory=list)
    triggers: list[tuple[int, int]] = field(default_factory=list)

    def column(self, feature: int) -> int:
        return self.columns.setdefault(feature, len(self.columns))


def sae_groups(layout: BatchLayout) -> list[SAEGroup]:
    """The SAEs that a batch reads, those without their error term apart.

    Edits of rows that only add read nothing, and are not here.
    """
    saes: dict[Hashable, BoundSAE] = {}
    members: dict[tuple[Hashable, bool], dict[int, _Member]] = {}
    for index, row in enumerate(layout.rows):
        replaced = {placed.splice.sae.key: placed.at for placed in row.replaced}

        def member(
            sae: BoundSAE, index: int = index, replaced: dict[Hashable, int] = replaced
        ) -> _Member:
            saes.setdefault(sae.key, sae)
            group = members.setdefault((sae.key, sae.key in replaced), {})
            if index not in group:
                at = replaced.get(sae.key)
                group[index] = _Member(index, SHUT if at is None else layout.selection(index, at))
            return group[index]

        for splice in row.replaced:
            member(splice.splice.sae)
        for placed in row.edits:
            if isinstance(placed.edit, FeatureEdit) and not only_adds(row):
                target = member(placed.edit.sae)
                target.edits.setdefault(target.column(placed.edit.feature), []).append(
                    (
                        placed.edit,
                        layout.selection(index, placed.at),
                        layout.condition(index, placed.condition),
                    )
                )
        for number, condition in enumerate(row.conditions):
            target = member(condition.condition.sae)
            target.triggers.append((number, target.column(condition.condition.feature)))
        for number, watch in enumerate(row.watch):
            target = member(watch.sae)
            target.watch.append((number, target.column(watch.feature)))
    return [
        _group(layout, saes[key], list(group.values()), replaces)
        for (key, replaces), group in members.items()
    ]


def _group(layout: BatchLayout, sae: BoundSAE, members: list[_Member], replaces: bool) -> SAEGroup:
    width = max(1, *(len(member.columns) for member in members))
    features = layout.ints([list(m.columns) + [0] * (width - len(m.columns)) for m in members])
    decoder = sae.sae.decoder_rows(features).to(torch.float32)
    norms = decoder.norm(dim=-1)
    n_rounds = max((len(e) for m in members for e in m.edits.values()), default=0)
    rounds, residual_shifts = [], []
    for n in range(n_rounds):
        flat: list[tuple[AffineClip, int, int]] = []
        residual = []
        for member in members:
            for column in range(width):
                edits = member.edits.get(column, [])
                if n >= len(edits):
                    flat.append((IDENTITY, SHUT, SHUT))
                    residual.append(0.0)
                    continue
                edit, at, when = edits[n]
                flat.append((IDENTITY if edit.unit_norm else edit.op, at, when))
                residual.append(edit.op.shift if edit.unit_norm else 0.0)
        shape = (len(members), width)
        ops = layout.ops(flat)
        rounds.append(
            OpBuffers(
                *(t.view(shape) for t in (ops.scale, ops.shift, ops.lo, ops.hi, ops.at, ops.when))
            )
        )
        wanted = layout.floats(residual).view(shape)
        residual_shifts.append(torch.where(wanted == 0, wanted, wanted / norms))
    watches = [
        (i, column, (member.row, number))
        for i, member in enumerate(members)
        for number, column in member.watch
    ]
    rows = [member.row for member in members]
    return SAEGroup(
        sae=sae,
        rows=None if rows == list(range(len(layout.rows))) else layout.ints(rows),
        features=features,
        decoder=decoder,
        rounds=tuple(rounds),
        residual_shifts=tuple(residual_shifts),
        triggers=_triggers(layout, members),
        watch_member=layout.ints([i for i, _, _ in watches]),
        watch_column=layout.ints([column for _, column, _ in watches]),
        watch_owners=tuple(owner for _, _, owner in watches),
        replaced_at=layout.ints([member.replaced_at for member in members]) if replaces else None,
    )


def _triggers(layout: BatchLayout, members: Iterable[_Member]) -> Triggers | None:
    found = [
        (i, member.row, number, column)
        for i, member in enumerate(members)
        for number, column in member.triggers
    ]
    if not found:
        return None
    placed = [layout.rows[row].conditions[number] for _, row, number, _ in found]
    lasting = [isinstance(p.condition.action, ApplyFromHere) for p in placed]
    latched = [bool(layout.rows[row].latched[number]) for _, row, number, _ in found]
    return Triggers(
        member=layout.ints([i for i, _, _, _ in found]),
        column=layout.ints([column for _, _, _, column in found]),
        threshold=layout.floats([[p.condition.threshold] for p in placed]),
        at=layout.ints(
            [layout.selection(row, p.at) for (_, row, _, _), p in zip(found, placed, strict=True)]
        ),
        gate=layout.ints([layout.condition(row, number) for _, row, number, _ in found]),
        lasting=torch.tensor(lasting, device=layout.device)[:, None],
        latched=torch.tensor(latched, device=layout.device)[:, None],
        owners=tuple((row, number) for _, row, number, _ in found),
    )


def direction_rounds(layout: BatchLayout) -> dict[HookPoint, list[DirectionRound]]:
    """The direction edits of a batch, per hook point, round by round in list order.

    But for those of rows that only add.
    """
    listed: dict[HookPoint, list[list[tuple[int, PlacedEdit]]]] = {}
    for index, row in enumerate(layout.rows):
        own: dict[HookPoint, list[tuple[int, PlacedEdit]]] = {}
        for placed in row.edits:
            if isinstance(placed.edit, DirectionEdit) and not only_adds(row):
                own.setdefault(placed.edit.hook, []).append((index, placed))
        for hook, edits in own.items():
            listed.setdefault(hook, []).append(edits)
    return {
        hook: [
            _direction_round(layout, [entry for entry in entries if entry is not None])
            for entries in zip_longest(*per_row)
        ]
        for hook, per_row in listed.items()
    }


def _direction_round(layout: BatchLayout, entries: list[tuple[int, PlacedEdit]]) -> DirectionRound:
    vectors, ops = [], []
    for row, placed in entries:
        edit = placed.edit
        assert isinstance(edit, DirectionEdit)
        norm = edit.norm
        vectors.append((edit.vector.to("cpu", torch.float64) / norm).to(torch.float32))
        op = AffineClip(edit.op.scale, edit.op.shift * norm, edit.op.lo, edit.op.hi)
        ops.append((op, layout.selection(row, placed.at), layout.condition(row, placed.condition)))
    return DirectionRound(
        rows=layout.ints([row for row, _ in entries]),
        unit=torch.stack(vectors).to(layout.device),
        op=layout.ops(ops),
    )
