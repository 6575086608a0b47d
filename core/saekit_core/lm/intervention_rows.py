"""One row's interventions laid over its own sequence, and what they remember between chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from saekit_core.lm.interventions import (
    NO_INTERVENTIONS,
    Condition,
    Edit,
    FeatureEdit,
    InterventionError,
    Interventions,
    Splice,
    Stop,
    Watch,
)
from saekit_core.lm.positions import (
    ALL_POSITIONS,
    EVERY_POSITION,
    GENERATED_POSITIONS,
    PositionError,
    PositionSelector,
    ResolvedPositions,
    resolve,
)

if TYPE_CHECKING:
    from saekit_core.lm.tokenizer import Tokenized


@dataclass(frozen=True)
class PlacedEdit:
    edit: Edit
    at: int
    """Index into `InterventionRow.selections`."""
    condition: int | None
    """Index of the condition that it hangs on."""


@dataclass(frozen=True)
class PlacedCondition:
    condition: Condition
    at: int


@dataclass(frozen=True)
class PlacedSplice:
    splice: Splice
    at: int


@dataclass(eq=False)
class InterventionRow:
    """What happens in one row of a batch, over all chunks and steps of its sequence.

    All but `latched` is fixed when the row is made by `place`.
    """

    edits: tuple[PlacedEdit, ...]
    conditions: tuple[PlacedCondition, ...]
    replaced: tuple[PlacedSplice, ...]
    """The splices without error term; one with it changes nothing by itself."""
    preserve_norm: bool
    watch: tuple[Watch, ...]
    selections: tuple[ResolvedPositions, ...]
    latched: NDArray[np.bool_] = field(init=False)
    """`[n_conditions]`: which conditions have fired at an earlier position and hold from there."""

    def __post_init__(self) -> None:
        self.latched = np.zeros(len(self.conditions), np.bool_)

    @property
    def idle(self) -> bool:
        """Nothing to read or write in this row."""
        return not (self.edits or self.conditions or self.replaced or self.watch)


def place(
    interventions: Interventions,
    tokenized: Tokenized,
    *,
    watch: Sequence[Watch] = (),
    n_generated: int = 0,
) -> InterventionRow:
    """Lay interventions over one prompt and up to `n_generated` positions behind it.

    Raises:
        InterventionError: a position selector that does not fit, a `Stop` where nothing is
            generated, a temporal SAE where something is, since it needs whole sequences; `field`
            is the path, as "edits[2].positions.ranges[0]".
    """
    if n_generated:
        _refuse_sequential(interventions, watch)
    selections: dict[tuple[PositionSelector | None, PositionSelector], int] = {}
    resolved: list[ResolvedPositions] = []

    def selection(selector: PositionSelector | None, default: PositionSelector, parent: str) -> int:
        key = (selector, default)
        if key not in selections:
            try:
                positions = resolve(selector, tokenized, default=default, n_generated=n_generated)
            except PositionError as error:
                raise InterventionError(
                    str(error), field=f"{parent}.positions.{error.field}"
                ) from error
            selections[key] = len(resolved)
            resolved.append(positions)
        return selections[key]

    edits = [
        PlacedEdit(edit, selection(edit.positions, ALL_POSITIONS, f"edits[{index}]"), None)
        for index, edit in enumerate(interventions.edits)
    ]
    conditions = []
    for index, condition in enumerate(interventions.conditions):
        name = f"conditions[{index}]"
        default = ALL_POSITIONS
        if isinstance(condition.action, Stop):
            if n_generated == 0:
                raise InterventionError(
                    "STOP ends a generation, but nothing is generated here", field=f"{name}.action"
                )
            default = GENERATED_POSITIONS
        else:
            edits += [
                PlacedEdit(
                    edit,
                    selection(edit.positions, ALL_POSITIONS, f"{name}.action.edits[{number}]"),
                    index,
                )
                for number, edit in enumerate(condition.action.edits)
            ]
        conditions.append(PlacedCondition(condition, selection(condition.positions, default, name)))
    splices = [
        PlacedSplice(splice, selection(splice.positions, EVERY_POSITION, f"splices[{index}]"))
        for index, splice in enumerate(interventions.splices)
    ]
    return InterventionRow(
        edits=tuple(edits),
        conditions=tuple(conditions),
        # One with its error term changes nothing by itself, wherever it is.
        replaced=tuple(placed for placed in splices if not placed.splice.use_error_term),
        preserve_norm=interventions.preserve_norm,
        watch=tuple(watch),
        selections=tuple(resolved),
    )


def _refuse_sequential(interventions: Interventions, watch: Sequence[Watch]) -> None:
    used = [(f"splices[{i}]", splice.sae) for i, splice in enumerate(interventions.splices)]
    used += [
        (f"edits[{i}].feature", edit.sae)
        for i, edit in enumerate(interventions.edits)
        if isinstance(edit, FeatureEdit)
    ]
    for i, condition in enumerate(interventions.conditions):
        used.append((f"conditions[{i}].trigger", condition.sae))
        edits = () if isinstance(condition.action, Stop) else condition.action.edits
        used += [
            (f"conditions[{i}].action.edits[{j}].feature", edit.sae)
            for j, edit in enumerate(edits)
            if isinstance(edit, FeatureEdit)
        ]
    used += [(f"watch[{i}]", watched.sae) for i, watched in enumerate(watch)]
    for field_path, bound in used:
        if bound.sae.architecture.sequential:
            raise InterventionError(
                f"{bound.sae_id} is a temporal SAE, which needs whole sequences; it takes no part"
                " in a generation",
                field=field_path,
            )


def idle_row() -> InterventionRow:
    """A row of a batch in which nothing is changed or watched."""
    return InterventionRow((), (), (), NO_INTERVENTIONS.preserve_norm, (), ())
