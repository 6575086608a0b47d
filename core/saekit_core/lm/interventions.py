"""What a caller wants changed in a run of the model: frozen domain objects, checked where made.

The one rule: splice an SAE together with its error term and edit its features,
h' = h + [D(a') - D(a)] with a = E(h). `saekit_core.lm.splicing` executes it.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saekit_core.lm.edits import (
    AffineClip,
    BoundSAE,
    DirectionEdit,
    Edit,
    FeatureEdit,
    InterventionError,
    InterventionPreconditionError,
    check_finite,
    in_maximum_activations,
)
from saekit_core.lm.positions import PositionSelector

if TYPE_CHECKING:
    from saekit_core.lm.hook_points import HookPoint

__all__ = [
    "NO_INTERVENTIONS",
    "Action",
    "AffineClip",
    "ApplyFromHere",
    "ApplyHere",
    "BoundSAE",
    "Condition",
    "DirectionEdit",
    "Edit",
    "FeatureEdit",
    "InterventionError",
    "InterventionPreconditionError",
    "Interventions",
    "Splice",
    "Stop",
    "Watch",
    "in_maximum_activations",
]


@dataclass(frozen=True, eq=False)
class Splice:
    """Replace the activations by the SAE's output: with its error term the activations stay as
    they are until a feature is edited, without it h' = D(a')."""

    sae: BoundSAE
    use_error_term: bool = True
    positions: PositionSelector | None = None
    """None: every position. Elsewhere, and for edits there, the error term is kept."""


@dataclass(frozen=True, eq=False)
class ApplyHere:
    """Apply these edits at the position that fired."""

    edits: tuple[Edit, ...]


@dataclass(frozen=True, eq=False)
class ApplyFromHere:
    """Apply these edits at the first position that fired and at all later ones."""

    edits: tuple[Edit, ...]


@dataclass(frozen=True)
class Stop:
    """End the generation at the token where the trigger fired."""


Action = ApplyHere | ApplyFromHere | Stop


@dataclass(frozen=True, eq=False)
class Condition:
    """Act where a feature's unedited activation lies above a threshold (strictly).

    Raises:
        InterventionError: no such feature, a threshold that is not finite, an action without
            edits, or one that would change activations read before the trigger is known.
    """

    sae: BoundSAE
    feature: int
    threshold: float
    action: Action
    positions: PositionSelector | None = None
    """Where the trigger is looked at. None: every position but a BOS; for `Stop`, the generated
    ones. A Stop that selects prompt positions is looked at there as well, and then ends the
    stream before its first token."""

    def __post_init__(self) -> None:
        self.sae.check_feature(self.feature)
        check_finite(self.threshold, "threshold")
        if isinstance(self.action, Stop):
            return
        if not self.action.edits:
            raise InterventionError("the action has no edits", field="action.edits")
        trigger = self.sae.hook
        for index, edit in enumerate(self.action.edits):
            if edit.reads.depth < trigger.depth or (
                edit.reads.depth == trigger.depth and edit.reads != trigger
            ):
                raise InterventionError(
                    f"the edit is at {edit.reads.name}, but its trigger is read at"
                    f" {trigger.name}; a trigger must be read at the same or an earlier hook"
                    " point",
                    field=f"action.edits[{index}]",
                )


@dataclass(frozen=True, eq=False)
class Watch:
    """Report a feature's unedited activation at every position that is run."""

    sae: BoundSAE
    feature: int

    def __post_init__(self) -> None:
        self.sae.check_feature(self.feature)


@dataclass(frozen=True, eq=False)
class Interventions:
    """All that one row of a run has changed.

    At one hook point every a = E(h) is read from the incoming h; feature edits compose on a in
    list order (those of conditions follow the plain ones); the brackets of several SAEs add; then
    direction edits in list order; `preserve_norm` rescales to the old |h| last.

    Raises:
        InterventionError: two SAEs without error term at one hook point, one SAE spliced twice,
            `preserve_norm` with nothing to preserve it from.
    """

    splices: tuple[Splice, ...] = ()
    edits: tuple[Edit, ...] = ()
    conditions: tuple[Condition, ...] = ()
    preserve_norm: bool = False

    def __post_init__(self) -> None:
        replaced: dict[HookPoint, str] = {}
        seen: set[Hashable] = set()
        for index, splice in enumerate(self.splices):
            where = f"splices[{index}]"
            if splice.sae.key in seen:
                raise InterventionError(f"{splice.sae.sae_id} is spliced twice", field=where)
            seen.add(splice.sae.key)
            if splice.use_error_term:
                continue
            hook = splice.sae.hook_out
            if hook in replaced:
                raise InterventionError(
                    f"{replaced[hook]} and {splice.sae.sae_id} both replace {hook.name}; only one"
                    " SAE at a hook point can go without its error term",
                    field=f"{where}.use_error_term",
                )
            replaced[hook] = splice.sae.sae_id
        if self.preserve_norm and not (replaced or self.all_edits()):
            raise InterventionError(
                "preserve_norm is set, but nothing changes the activations", field="preserve_norm"
            )

    def all_edits(self) -> list[tuple[Edit, int | None]]:
        """Every edit in its order, with the index of the condition that it hangs on."""
        edits: list[tuple[Edit, int | None]] = [(edit, None) for edit in self.edits]
        for index, condition in enumerate(self.conditions):
            if not isinstance(condition.action, Stop):
                edits += [(edit, index) for edit in condition.action.edits]
        return edits

    @property
    def empty(self) -> bool:
        """Nothing here can change or stop a run."""
        return not (
            self.edits
            or self.conditions
            or any(not splice.use_error_term for splice in self.splices)
        )


NO_INTERVENTIONS = Interventions()
