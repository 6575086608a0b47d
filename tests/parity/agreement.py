"""When two implementations of an SAE agree.

**Values**: per row, the norm of the difference over the norm of the row. A cell's error is the root
mean square of that over its rows, or a third of the worst row if that is more. (The largest element
would not do: neighbouring bfloat16 numbers are up to 1/128 apart.)

**Active features** are the same, ties aside. A feature may be active on one side only where
rounding decides: its distance from the boundary (0, a threshold, the k-th value), in float64, is at
most half a unit in the last place of what its pre-activation can at most be,
``eps/2 · (‖x̃‖‖w‖ + |b|)``. A pursuit chooses one feature after the other, so there a row may differ
as a whole where two scores, or the residual and its threshold, come that close at some step. Ties
are counted and bounded.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Final

import torch
from tests.parity.distances import distances, pursuit_distances
from tests.parity.exchange import Answers
from torch import Tensor

from saekit_core.sae import SAE

TOLERANCE: Final = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 1e-2}
WORST_ROW: Final = 3
"""A row may be off by this many times the tolerance."""
MOST_TIES: Final = 0.01
"""Share of a cell's features that rounding may decide, at most (or two of them: one exchange)."""
MOST_PURSUIT_TIES: Final = 0.75
"""Share of pursuits that rounding may decide, at most: in 16 bits most long ones meet a tie."""


@dataclass(frozen=True)
class Agreement:
    """How far one SAE's answers are from another's."""

    dtype: str
    encode: float
    """Error of the feature activations, where both are active or neither."""
    decode: float
    """Error of decode on the same feature activations."""
    forward: float
    """Error of forward, in rows without ties."""
    ties: int
    """Features (pursuits: rows) that differ because of rounding."""
    compared: int
    """Features (pursuits: rows) that could be ties."""
    most_ties: float
    flips: int
    """Features that are active on one side only, without that excuse."""

    @property
    def worst(self) -> float:
        return max(self.encode, self.decode, self.forward)

    @property
    def problems(self) -> list[str]:
        """What is wrong; nothing where the two agree."""
        found = [
            f"{what} is off by {error:.1e}"
            for what in ("encode", "decode", "forward")
            # Written so that NaN fails.
            if not (error := getattr(self, what)) <= TOLERANCE[self.dtype]
        ]
        if self.flips:
            found.append(f"{self.flips} features are active on one side only")
        if self.ties > max(2, self.most_ties * self.compared):
            found.append(f"{self.ties} of {self.compared} are called ties")
        return found


@torch.no_grad()
def compare(sae: SAE, theirs: Answers) -> Agreement:
    """Our answers for `theirs.x` against theirs; decode is compared on their activations.

    Raises:
        AssertionError: an answer has another shape or dtype.
    """
    acts = sae.encode(theirs.x)
    decoded = sae.decode(theirs.acts)  # without what a state carries, as sae-lens decodes
    forward = sae(theirs.x)
    for name, ours in (("acts", acts), ("decoded", decoded), ("forward", forward)):
        expected = getattr(theirs, name)
        assert ours.shape == expected.shape, f"{name}: {ours.shape}, expected {expected.shape}"
        assert ours.dtype == expected.dtype, f"{name}: {ours.dtype}, expected {expected.dtype}"

    # From here on one axis of rows, heads flattened.
    acts, their_acts = (t.reshape(-1, sae.cfg.d_sae) for t in (acts, theirs.acts))
    decoded, their_decoded, forward, their_forward = (
        t.reshape(len(acts), -1) for t in (decoded, theirs.decoded, forward, theirs.forward)
    )
    wide = copy.deepcopy(sae).to(torch.float64)
    margin = torch.finfo(sae.dtype).eps / 2
    flipped = (acts != 0) != (their_acts != 0)
    if sae.cfg.architecture == "matching_pursuit":
        off = _row_errors(acts, their_acts) > TOLERANCE[sae.cfg.dtype]
        close = pursuit_distances(wide, theirs.x).reshape(-1) <= margin
        ties = (flipped.any(dim=1) | off) & close
        excused, most_ties = ties[:, None].expand_as(flipped), MOST_PURSUIT_TIES
    else:
        close = distances(wide, theirs.x).reshape(flipped.shape) <= margin
        ties = excused = flipped & close
        most_ties = MOST_TIES
    settled = ~(flipped | excused).any(dim=1)
    return Agreement(
        dtype=sae.cfg.dtype,
        encode=_error(acts.where(~excused, 0), their_acts.where(~excused, 0)),
        decode=_error(decoded, their_decoded),
        forward=_error(forward[settled], their_forward[settled]),
        ties=int(ties.sum()),
        compared=ties.numel(),
        most_ties=most_ties,
        flips=int((flipped & ~excused).sum()),
    )


def _row_errors(actual: Tensor, expected: Tensor) -> Tensor:
    actual, expected = actual.double(), expected.double()
    size = expected.norm(dim=1)
    # A row of zeros has no scale of its own.
    return (actual - expected).norm(dim=1) / torch.where(size > 0, size, 1.0)


def _error(actual: Tensor, expected: Tensor) -> float:
    if not len(expected):
        return 0.0
    errors = _row_errors(actual, expected)
    return max(float(errors.square().mean().sqrt()), float(errors.max()) / WORST_ROW)
