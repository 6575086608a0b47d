"""Where things apply in a batch, and edits as buffers: all that differs between rows is data.

Gates, `[rows * n_gates, positions]` booleans, say where something applies. Of each row's gates the
first is always shut, the second always open (those of row 0 serve every row), then come the row's
position selections, which the host fills in before each run, and then its conditions, which the run
itself fills in. An edit applies where its position gate and its condition gate are both open.
Shapes depend on the makeup of a batch alone, so that a captured graph could be replayed with other
values in the buffers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saekit_core.lm.edits import AffineClip
from saekit_core.lm.intervention_rows import InterventionRow

SHUT, OPEN, FIRST_SELECTION = 0, 1, 2


@dataclass(frozen=True, eq=False)
class OpBuffers:
    """One op for each row and feature of a group, `[r, K]`, or each direction, `[r]`."""

    scale: Tensor
    shift: Tensor
    lo: Tensor
    hi: Tensor
    at: Tensor
    """Position gate, int64."""
    when: Tensor
    """Condition gate, int64."""

    def moved(self, value: Tensor, delta: Tensor, shift: Tensor, active: Tensor) -> Tensor:
        """The new difference to `value`, `[..., positions]` first in `[r, ..., P]`.

        Differences are carried instead of values, so that a shift arrives undiminished however
        large the value is that it is added to.
        """
        scale, lo, hi = self.scale[..., None], self.lo[..., None], self.hi[..., None]
        new = (scale - 1) * value + scale * delta + shift
        new = torch.minimum(torch.maximum(new, lo - value), hi - value)
        return torch.where(active, new, delta)


class BatchLayout:
    """Which gate belongs to what, for one batch. A gate's number says its row, too."""

    def __init__(self, rows: Sequence[InterventionRow], device: torch.device) -> None:
        self.rows = rows
        self.device = device
        self.n_selections = max((len(row.selections) for row in rows), default=0)
        n_conditions = max((len(row.conditions) for row in rows), default=0)
        self.n_gates = FIRST_SELECTION + self.n_selections + n_conditions

    def selection(self, row: int, index: int) -> int:
        return row * self.n_gates + FIRST_SELECTION + index

    def condition(self, row: int, index: int | None) -> int:
        if index is None:
            return OPEN
        return row * self.n_gates + FIRST_SELECTION + self.n_selections + index

    def gates(
        self,
        starts: Sequence[int],
        counts: Sequence[int],
        width: int,
        special: NDArray[np.bool_] | None,
    ) -> NDArray[np.bool_]:
        """`[rows * n_gates, width]`: what the host knows; conditions are left shut."""
        if width == 1:
            return self._gates_of_a_step(starts, special)
        gates = np.zeros((len(self.rows) * self.n_gates, width), np.bool_)
        gates[OPEN] = True
        for index, (row, start, count) in enumerate(zip(self.rows, starts, counts, strict=True)):
            own = None if special is None else special[index, :count]
            for number, positions in enumerate(row.selections):
                covered = positions.mask(start, start + count, own)
                gates[self.selection(index, number), :count] = covered
        return gates

    def _gates_of_a_step(
        self, starts: Sequence[int], special: NDArray[np.bool_] | None
    ) -> NDArray[np.bool_]:
        """`gates` of one position per row, which come by the thousand: without arrays per row."""
        gates = [False] * (len(self.rows) * self.n_gates)
        gates[OPEN] = True
        marks = [False] * len(self.rows) if special is None else special[:, 0].tolist()
        for index, (row, start, mark) in enumerate(zip(self.rows, starts, marks, strict=True)):
            first = self.selection(index, 0)
            for number, positions in enumerate(row.selections):
                gates[first + number] = positions.covers(start, special=mark)
        return np.array(gates, np.bool_)[:, None]

    def ints(self, values: object) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.device)

    def floats(self, values: object) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self.device)

    def ops(self, ops: Sequence[tuple[AffineClip, int, int]]) -> OpBuffers:
        """Buffers `[len(ops)]` of (op, position gate, condition gate)."""
        return OpBuffers(
            scale=self.floats([op.scale for op, _, _ in ops]),
            shift=self.floats([op.shift for op, _, _ in ops]),
            lo=self.floats([op.lo for op, _, _ in ops]),
            hi=self.floats([op.hi for op, _, _ in ops]),
            at=self.ints([at for _, at, _ in ops]),
            when=self.ints([when for _, _, when in ops]),
        )
