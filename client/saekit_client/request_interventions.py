"""Intervention messages from the dataclasses that describe them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from saekit.codec import numpy_to_tensor
from saekit.v1 import input_pb2, intervention_pb2
from saekit_client.interventions import (
    Ablate,
    Add,
    ApplyFromHere,
    ApplyHere,
    Cap,
    Clip,
    Condition,
    Direction,
    Edit,
    FeatureRef,
    Interventions,
    Project,
    Scale,
    Set,
    Splice,
    Unit,
)
from saekit_client.positions import PositionSelector, Region

_REGIONS: Mapping[Region, input_pb2.PositionSelector.Region] = {
    "all": input_pb2.PositionSelector.REGION_ALL,
    "prompt": input_pb2.PositionSelector.REGION_PROMPT,
    "generated": input_pb2.PositionSelector.REGION_GENERATED,
    "last_prompt": input_pb2.PositionSelector.REGION_LAST_PROMPT,
}
_UNITS: Mapping[Unit, intervention_pb2.Unit] = {
    "raw": intervention_pb2.UNIT_RAW,
    "unit_norm": intervention_pb2.UNIT_UNIT_NORM,
    "max_activation": intervention_pb2.UNIT_MAX_ACTIVATION,
}


def selector_message(selector: PositionSelector) -> input_pb2.PositionSelector:
    """A PositionSelector."""
    message = input_pb2.PositionSelector(
        include_bos=selector.include_bos, include_special=selector.include_special
    )
    if selector.region is not None:
        if selector.region not in _REGIONS:
            raise ValueError(f"region: expected one of {list(_REGIONS)}, got {selector.region!r}")
        message.region = _REGIONS[selector.region]
    elif selector.last_n is not None:
        message.last_n = selector.last_n
    elif selector.ranges:
        message.ranges.ranges.extend(
            input_pb2.PositionRange(start=start, end=end) for start, end in selector.ranges
        )
    elif selector.roles:
        message.roles.roles.extend(selector.roles)
    return message


def interventions_message(interventions: Interventions) -> intervention_pb2.Interventions:
    """All interventions of a run."""
    return intervention_pb2.Interventions(
        splices=[_splice(s) for s in interventions.splices],
        edits=[_edit(e) for e in interventions.edits],
        conditions=[_condition(c) for c in interventions.conditions],
        preserve_norm=interventions.preserve_norm,
    )


def _positions(selector: PositionSelector | None) -> input_pb2.PositionSelector | None:
    return None if selector is None else selector_message(selector)


def _splice(splice: str | Splice) -> intervention_pb2.Splice:
    if isinstance(splice, str):
        splice = Splice(splice)
    return intervention_pb2.Splice(
        sae=splice.sae,
        use_error_term=splice.use_error_term,
        positions=_positions(splice.positions),
    )


def _feature(ref: FeatureRef) -> intervention_pb2.FeatureRef:
    return intervention_pb2.FeatureRef(sae=ref.sae, index=ref.index)


def _direction(direction: Direction) -> intervention_pb2.Direction:
    message = intervention_pb2.Direction(hook_name=direction.hook_name)
    if direction.feature is not None:
        message.feature.CopyFrom(_feature(direction.feature))
    else:
        message.vector.CopyFrom(numpy_to_tensor(np.asarray(direction.vector, dtype=np.float32)))
    return message


def _unit(unit: Unit) -> intervention_pb2.Unit:
    if unit not in _UNITS:
        raise ValueError(f"unit: expected one of {list(_UNITS)}, got {unit!r}")
    return _UNITS[unit]


def _edit(edit: Edit) -> intervention_pb2.Edit:
    message = intervention_pb2.Edit(positions=_positions(edit.positions))
    if isinstance(edit.target, FeatureRef):
        message.feature.CopyFrom(_feature(edit.target))
    else:
        message.direction.CopyFrom(_direction(edit.target))
    match edit.operation:
        case Add(amount, unit):
            message.add.CopyFrom(intervention_pb2.Add(amount=amount, unit=_unit(unit)))
        case Set(value, unit):
            message.set.CopyFrom(intervention_pb2.Set(value=value, unit=_unit(unit)))
        case Ablate():
            message.ablate.SetInParent()
        case Scale(factor):
            message.scale.CopyFrom(intervention_pb2.Scale(factor=factor))
        case Clip(lo, hi):
            message.clip.CopyFrom(intervention_pb2.Clip(lo=lo, hi=hi))
        case Project(coefficient):
            message.project.CopyFrom(intervention_pb2.Project(coefficient=coefficient))
        case Cap(lo, hi):
            message.cap.CopyFrom(intervention_pb2.Cap(lo=lo, hi=hi))
    return message


def _edit_list(edits: Sequence[Edit]) -> intervention_pb2.EditList:
    return intervention_pb2.EditList(edits=[_edit(e) for e in edits])


def _condition(condition: Condition) -> intervention_pb2.Condition:
    message = intervention_pb2.Condition(
        trigger=_feature(condition.trigger),
        threshold=condition.threshold,
        positions=_positions(condition.positions),
    )
    match condition.action:
        case ApplyHere(edits):
            message.apply_here.CopyFrom(_edit_list(edits))
        case ApplyFromHere(edits):
            message.apply_from_here.CopyFrom(_edit_list(edits))
        case _:
            message.stop.SetInParent()
    return message
