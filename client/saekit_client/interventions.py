"""Splices, edits and conditions: what a run is told to do. Names are those of the protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from saekit_client.positions import PositionSelector

Unit = Literal["raw", "unit_norm", "max_activation"]


@dataclass(frozen=True)
class FeatureRef:
    """One feature of one SAE."""

    sae: str
    """sae_id or sae_id@revision."""
    index: int
    """Below d_sae."""

    def __post_init__(self) -> None:
        if not 0 <= self.index < 2**32:
            raise ValueError(f"index: expected a feature of {self.sae}, got {self.index}")


@dataclass(frozen=True, eq=False)
class Direction:
    """A direction in activation space: a vector at a hook point, or a feature's decoder row."""

    hook_name: str = ""
    """Hook point; may be left empty with `feature`, then it is the SAE's output hook point."""
    vector: npt.NDArray[Any] | None = None
    """[d], finite, not all zero."""
    feature: FeatureRef | None = None
    """The feature whose decoder row it is."""

    def __post_init__(self) -> None:
        if (self.vector is None) == (self.feature is None):
            raise ValueError("expected exactly one of vector and feature")


@dataclass(frozen=True)
class Add:
    """feature: a + amount; direction: h + amount * v."""

    amount: float
    unit: Unit = "raw"


@dataclass(frozen=True)
class Set:
    """feature: the value, whatever it was."""

    value: float
    unit: Unit = "raw"


@dataclass(frozen=True)
class Ablate:
    """feature: 0."""


@dataclass(frozen=True)
class Scale:
    """feature: factor * a."""

    factor: float


@dataclass(frozen=True)
class Clip:
    """feature: a limited to [lo, hi]."""

    lo: float | None = None
    hi: float | None = None


@dataclass(frozen=True)
class Project:
    """direction: the component along v times the coefficient (0 removes, -1 reflects)."""

    coefficient: float


@dataclass(frozen=True)
class Cap:
    """direction: the component along v / |v| limited to [lo, hi]."""

    lo: float | None = None
    hi: float | None = None


Operation = Add | Set | Ablate | Scale | Clip | Project | Cap


@dataclass(frozen=True)
class Edit:
    """One operation on one feature or direction, at some positions (default: all but a BOS)."""

    target: FeatureRef | Direction
    operation: Operation
    positions: PositionSelector | None = None


@dataclass(frozen=True)
class Splice:
    """Replaces activations by an SAE's output; with its error term only the edits change them."""

    sae: str
    use_error_term: bool = False
    positions: PositionSelector | None = None
    """Default: every position, BOS included."""


@dataclass(frozen=True)
class ApplyHere:
    """Edits for the very positions where a condition fires."""

    edits: tuple[Edit, ...]


@dataclass(frozen=True)
class ApplyFromHere:
    """Edits from the first position where a condition fires on."""

    edits: tuple[Edit, ...]


@dataclass(frozen=True)
class Stop:
    """Ends the generation where a condition fires. Steer only."""


@dataclass(frozen=True)
class Condition:
    """Acts where the unedited activation of `trigger` exceeds `threshold`."""

    trigger: FeatureRef
    threshold: float
    action: ApplyHere | ApplyFromHere | Stop
    positions: PositionSelector | None = None
    """Where the trigger is looked at. Default: all but a BOS; for Stop the generated ones."""


@dataclass(frozen=True)
class Interventions:
    """Everything that is done to one run."""

    splices: Sequence[str | Splice] = ()
    """SAEs spliced in; a bare name is spliced without its error term."""
    edits: Sequence[Edit] = ()
    """Applied in this order."""
    conditions: Sequence[Condition] = ()
    """Edits or a stop that depend on a feature."""
    preserve_norm: bool = False
    """Rescale every changed position to the norm it had."""


def add(
    sae: str,
    feature: int,
    amount: float,
    *,
    unit: Unit = "raw",
    positions: PositionSelector | None = None,
) -> Edit:
    """Adds to a feature; `unit="max_activation"` counts in the feature's recorded maximum,
    "unit_norm" in residual norm."""
    return Edit(FeatureRef(sae, feature), Add(amount, unit), positions)


def set_to(
    sae: str,
    feature: int,
    value: float,
    *,
    unit: Unit = "raw",
    positions: PositionSelector | None = None,
) -> Edit:
    """Clamps a feature to a value."""
    return Edit(FeatureRef(sae, feature), Set(value, unit), positions)


def ablate(sae: str, feature: int, *, positions: PositionSelector | None = None) -> Edit:
    """Sets a feature to 0."""
    return Edit(FeatureRef(sae, feature), Ablate(), positions)


def scale(
    sae: str, feature: int, factor: float, *, positions: PositionSelector | None = None
) -> Edit:
    """Multiplies a feature."""
    return Edit(FeatureRef(sae, feature), Scale(factor), positions)


def clip(
    sae: str,
    feature: int,
    lo: float | None = None,
    hi: float | None = None,
    *,
    positions: PositionSelector | None = None,
) -> Edit:
    """Limits a feature to a range; at least one bound."""
    return Edit(FeatureRef(sae, feature), Clip(lo, hi), positions)


def direction(sae: str, feature: int) -> Direction:
    """The decoder row of a feature, at its SAE's output hook point."""
    return Direction(feature=FeatureRef(sae, feature))


def vector(hook_name: str, values: npt.ArrayLike) -> Direction:
    """A direction of one's own at a hook point, [d]."""
    return Direction(hook_name=hook_name, vector=np.asarray(values))


def add_direction(
    along: Direction,
    amount: float,
    *,
    unit: Unit = "raw",
    positions: PositionSelector | None = None,
) -> Edit:
    """Adds `amount` times a direction."""
    return Edit(along, Add(amount, unit), positions)


def project(
    along: Direction, coefficient: float = 0.0, *, positions: PositionSelector | None = None
) -> Edit:
    """Rescales the component along a direction; 0 removes it."""
    return Edit(along, Project(coefficient), positions)


def cap(
    along: Direction,
    lo: float | None = None,
    hi: float | None = None,
    *,
    positions: PositionSelector | None = None,
) -> Edit:
    """Limits the component along a unit direction; at least one bound."""
    return Edit(along, Cap(lo, hi), positions)


def stop_when(trigger: FeatureRef, above: float = 0.0) -> Condition:
    """Ends the generation at the first token on which a feature exceeds a threshold."""
    return Condition(trigger, above, Stop())
