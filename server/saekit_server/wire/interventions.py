"""Interventions messages to the domain's."""

import math
from collections.abc import Callable

import torch

from saekit.codec import tensor_to_numpy
from saekit.v1 import intervention_pb2 as pb
from saekit_core.lm.interventions import (
    Action,
    AffineClip,
    ApplyFromHere,
    ApplyHere,
    Condition,
    DirectionEdit,
    Edit,
    FeatureEdit,
    Interventions,
    Splice,
    Stop,
    in_maximum_activations,
)
from saekit_core.lm.model import LanguageModel
from saekit_core.lm.positions import PositionSelector
from saekit_server.errors import at_field, invalid
from saekit_server.registry import LoadedSAE
from saekit_server.wire.fields import at_wire_field
from saekit_server.wire.positions import position_selector

_FEATURE_OPERATIONS = ("add", "set", "ablate", "scale", "clip")
_DIRECTION_OPERATIONS = ("add", "project", "cap")


class InterventionReader:
    """Reads interventions against one model and the SAEs that are loaded now.

    Attributes:
        used: every SAE that was named, by what it was named.
    """

    def __init__(self, model: LanguageModel, lookup: Callable[[str], LoadedSAE]) -> None:
        self._model = model
        self._lookup = lookup
        self.used: dict[str, LoadedSAE] = {}

    def sae(self, name: str) -> LoadedSAE:
        """The loaded SAE of that name, the same one at every mention within a request."""
        if name not in self.used:
            self.used[name] = self._lookup(name)
        return self.used[name]

    def read(self, message: pb.Interventions, *, generates: bool) -> Interventions:
        """The domain's interventions.

        Args:
            message: what came over the wire.
            generates: whether a generation follows, which a condition may stop.

        Raises:
            DomainError: anything that cannot be carried out, naming its field.
        """
        splices, edits, conditions = [], [], []
        for i, splice in enumerate(message.splices):
            with at_field(f"splices[{i}]"):
                splices.append(self._splice(splice))
        for i, edit in enumerate(message.edits):
            with at_field(f"edits[{i}]"):
                edits.append(self._edit(edit))
        for i, condition in enumerate(message.conditions):
            with at_field(f"conditions[{i}]"):
                conditions.append(self._condition(condition, generates=generates))
        with at_field(""):
            return Interventions(
                tuple(splices), tuple(edits), tuple(conditions), message.preserve_norm
            )

    def feature(self, ref: pb.FeatureRef) -> tuple[LoadedSAE, int]:
        """SAE and index of a feature."""
        loaded = self.sae(ref.sae)
        if ref.index >= loaded.sae.cfg.d_sae:
            raise invalid(
                "index",
                f"feature {ref.index} of {loaded.sae_id}, which has {loaded.sae.cfg.d_sae}",
            )
        return loaded, ref.index

    def _splice(self, message: pb.Splice) -> Splice:
        return Splice(self.sae(message.sae).bound, message.use_error_term, _positions(message))

    def _edit(self, message: pb.Edit) -> Edit:
        target, operation = message.WhichOneof("target"), message.WhichOneof("operation")
        if target is None:
            raise invalid("target", "expected a feature or a direction")
        if operation is None:
            raise invalid("operation", "expected an operation")
        allowed = _FEATURE_OPERATIONS if target == "feature" else _DIRECTION_OPERATIONS
        if operation not in allowed:
            raise invalid(operation, f"a {target} takes {', '.join(allowed)}, not {operation}")
        if target == "feature":
            return self._feature_edit(message)
        return self._direction_edit(message)

    def _feature_edit(self, message: pb.Edit) -> FeatureEdit:
        with at_field("feature"):
            loaded, feature = self.feature(message.feature)
        positions = _positions(message)
        unit_norm = (
            message.WhichOneof("operation") == "add" and message.add.unit == pb.UNIT_UNIT_NORM
        )
        with at_field(str(message.WhichOneof("operation"))):
            op = _feature_op(message, loaded, feature)
            return FeatureEdit(loaded.bound, feature, op, unit_norm, positions)

    def _direction_edit(self, message: pb.Edit) -> DirectionEdit:
        with at_field("direction"):
            hook_name, vector = self._direction(message.direction)
            hook = self._model.hook_point(hook_name)
        unit = message.add.unit if message.WhichOneof("operation") == "add" else pb.UNIT_RAW
        if unit == pb.UNIT_MAX_ACTIVATION:
            raise invalid("add.unit", "MAX_ACTIVATION is a unit of features, not of directions")
        if unit == pb.UNIT_UNIT_NORM:
            vector = vector / vector.norm().clamp_min(torch.finfo(torch.float32).tiny)
        with at_field(str(message.WhichOneof("operation"))):
            op = _direction_op(message)
        positions = _positions(message)
        with at_field("direction"):
            return DirectionEdit(hook, vector, op, positions)

    def _direction(self, message: pb.Direction) -> tuple[str, torch.Tensor]:
        match message.WhichOneof("source"):
            case "vector":
                if not message.hook_name:
                    raise invalid("hook_name", "expected a hook point for the vector")
                with at_field("vector"):
                    vector = tensor_to_numpy(message.vector, floating=True)
                    return message.hook_name, torch.from_numpy(vector.astype("float32"))
            case "feature":
                with at_field("feature"):
                    loaded, feature = self.feature(message.feature)
                row = loaded.sae.decoder_rows(torch.tensor([feature], device=loaded.sae.device))
                return message.hook_name or loaded.bound.hook_out.name, row[0].float().cpu()
            case _:
                raise invalid("source", "expected a vector or a feature")

    def _condition(self, message: pb.Condition, *, generates: bool) -> Condition:
        with at_field("trigger"):
            loaded, feature = self.feature(message.trigger)
        action: Action
        match message.WhichOneof("action"):
            case "apply_here":
                action = ApplyHere(self._edit_list(message.apply_here, "apply_here"))
            case "apply_from_here":
                action = ApplyFromHere(self._edit_list(message.apply_from_here, "apply_from_here"))
            case "stop":
                if not generates:
                    raise invalid("stop", "nothing is generated here that could be stopped")
                action = Stop()
            case _:
                raise invalid("action", "expected apply_here, apply_from_here or stop")
        with at_wire_field("", {"action": str(message.WhichOneof("action"))}):
            return Condition(loaded.bound, feature, message.threshold, action, _positions(message))

    def _edit_list(self, message: pb.EditList, name: str) -> tuple[Edit, ...]:
        if not message.edits:
            raise invalid(f"{name}.edits", "expected at least one edit")
        edits = []
        for i, edit in enumerate(message.edits):
            with at_field(f"{name}.edits[{i}]"):
                edits.append(self._edit(edit))
        return tuple(edits)


def _positions(message: pb.Splice | pb.Edit | pb.Condition) -> PositionSelector | None:
    if not message.HasField("positions"):
        return None
    with at_field("positions"):
        return position_selector(message.positions)


def _feature_op(message: pb.Edit, loaded: LoadedSAE, feature: int) -> AffineClip:
    match message.WhichOneof("operation"):
        case "add":
            amount = _finite("amount", message.add.amount)
            return AffineClip.add(_in_unit(amount, message.add.unit, loaded, feature))
        case "set":
            if message.set.unit == pb.UNIT_UNIT_NORM:
                raise invalid("unit", "UNIT_NORM is a unit of add alone")
            value = _finite("value", message.set.value)
            return AffineClip.set_to(_in_unit(value, message.set.unit, loaded, feature))
        case "scale":
            return AffineClip.multiply(_finite("factor", message.scale.factor))
        case "clip":
            return AffineClip.clip(*_bounds(message.clip))
        case _:
            return AffineClip.ablate()


def _direction_op(message: pb.Edit) -> AffineClip:
    match message.WhichOneof("operation"):
        case "add":
            return AffineClip.add(_finite("amount", message.add.amount))
        case "project":
            return AffineClip.multiply(_finite("coefficient", message.project.coefficient))
        case _:
            return AffineClip.clip(*_bounds(message.cap))


def _in_unit(amount: float, unit: "pb.Unit", loaded: LoadedSAE, feature: int) -> float:
    if unit != pb.UNIT_MAX_ACTIVATION:
        return amount
    return in_maximum_activations(amount, loaded.features, feature, loaded.sae_id)


def _finite(name: str, value: float) -> float:
    if not math.isfinite(value):
        raise invalid(name, f"expected a finite number, got {value}")
    return value


def _bounds(message: pb.Clip | pb.Cap) -> tuple[float, float]:
    if not message.HasField("lo") and not message.HasField("hi"):
        raise invalid("lo", "expected lo or hi")
    return (
        message.lo if message.HasField("lo") else -math.inf,
        message.hi if message.HasField("hi") else math.inf,
    )
