"""What the engine is asked to do for one input, and what it answers. No protobuf here."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from saekit.codec import CSR
from saekit_core.lm.hook_points import HookPoint
from saekit_core.lm.intervention_rows import InterventionRow, idle_row
from saekit_core.lm.tokenizer import Tokenized
from saekit_core.sae.normalization import EncodeState
from saekit_server.engine.selection import take_rows
from saekit_server.registry import LoadedSAE

Ids = npt.NDArray[np.int64]

STATE_PARTS = ("mean", "std", "scale", "x", "predicted")
"""The arrays of an encode state, by the names that the core and the wire give them."""


@dataclass(frozen=True, eq=False)
class Read:
    """Features of one SAE at some positions of a row (or of some rows of given activations).

    positions: [rows], ascending; return_state: whether anybody wants what Decode needs.
    """

    loaded: LoadedSAE
    positions: Ids
    return_state: bool = False


@dataclass(frozen=True, eq=False)
class Encoding:
    """Every active feature at the positions of a `Read`.

    acts: [rows, d_sae]; positions: [rows]; every_position: the rows are all positions of the input;
    state: what Decode needs, arrays [rows, ...] by name, if it was asked for; head_shape:
    (n_heads, d_head) or empty.
    """

    acts: CSR
    positions: Ids
    every_position: bool
    state: dict[str, npt.NDArray[np.float32]]
    head_shape: tuple[int, ...] = ()

    def at(self, rows: Ids) -> "Encoding":
        """Only the given rows, ascending."""
        if len(rows) == self.acts.shape[0]:
            return self
        state = {name: array[rows] for name, array in self.state.items()}
        return Encoding(
            take_rows(self.acts, rows), self.positions[rows], False, state, self.head_shape
        )


class Logits(Enum):
    """Which logits are returned."""

    NONE = "none"
    LAST = "last"
    ALL = "all"


@dataclass(frozen=True, eq=False)
class RunSpec:
    """What a run returns beside features, and the hook points that its ablated twin zeroes."""

    logits: Logits = Logits.NONE
    top_k_logits: int | None = None
    loss: bool = False
    token_logprobs: bool = False
    activations: tuple[HookPoint, ...] = ()
    compare: bool = False
    ablated_hooks: tuple[HookPoint, ...] = ()

    @property
    def rows(self) -> int:
        """Rows of a batch that the run takes: itself, its clean twin, its ablated twin."""
        if not self.compare:
            return 1
        return 3 if self.ablated_hooks else 2

    @property
    def every_logit(self) -> bool:
        """Whether logits are computed at every position."""
        return self.logits is Logits.ALL or self.loss or self.token_logprobs or self.compare

    @property
    def any_logit(self) -> bool:
        """Whether the model must run to its end."""
        return self.every_logit or self.logits is not Logits.NONE


@dataclass(frozen=True, eq=False)
class ForwardWork:
    """One input through the model: reads for Encode, and a run for RunWithSAEs."""

    tokenized: Tokenized
    reads: tuple[Read, ...]
    run: RunSpec | None = None
    interventions: InterventionRow = field(default_factory=idle_row)


@dataclass(frozen=True)
class Comparison:
    """A run against its clean twin; losses in nats per token, None without a next token."""

    kl: float
    clean_loss: float | None
    loss: float | None
    ablated_loss: float | None


@dataclass(eq=False)
class RunOutput:
    """What a run returns beside features; fields that were not asked for stay None."""

    logits: npt.NDArray[np.float32] | None = None
    top_ids: npt.NDArray[np.int64] | None = None
    top_logits: npt.NDArray[np.float32] | None = None
    top_logprobs: npt.NDArray[np.float32] | None = None
    loss: float | None = None
    token_logprobs: npt.NDArray[np.float32] | None = None
    activations: list[torch.Tensor] = field(default_factory=list)
    comparison: Comparison | None = None


@dataclass(frozen=True, eq=False)
class ForwardResult:
    """One encoding per read, and the run's output."""

    encodings: list[Encoding]
    run: RunOutput | None


@dataclass(frozen=True, eq=False)
class EncodeActivationsWork:
    """Rows of given activations through one SAE.

    x: float32 [rows, d_in] or [rows, n_heads, d_head]; return_state: as in `Read`.
    """

    loaded: LoadedSAE
    x: npt.NDArray[np.float32]
    return_state: bool = False


@dataclass(frozen=True, eq=False)
class DecodeWork:
    """Feature activations back to activations."""

    loaded: LoadedSAE
    acts: CSR
    state: EncodeState | None


def encode_state_arrays(state: EncodeState) -> dict[str, npt.NDArray[Any]]:
    """The parts of a state that are there, as float32 arrays of [rows, 1] or [rows, d_in]."""
    parts = {name: getattr(state, name) for name in STATE_PARTS}
    return {
        name: tensor.detach().float().cpu().numpy()
        for name, tensor in parts.items()
        if tensor is not None
    }


Work = ForwardWork | EncodeActivationsWork | DecodeWork
