"""What RunWithSAEs gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from saekit.codec import tensor_to_numpy
from saekit.v1 import sae_service_pb2
from saekit_client.results import Floats, SAEEncoding, ServedBy, Tokens


@dataclass(frozen=True, eq=False)
class TopLogits:
    """The k largest logits of each row, largest first; each [rows, k]."""

    ids: npt.NDArray[np.uint32]
    logits: Floats
    logprobs: Floats


@dataclass(frozen=True)
class RunComparison:
    """The run against the clean run; losses in nats per token."""

    kl: float
    """Mean over positions of KL(clean || run), nats."""
    clean_loss: float | None
    """None for inputs of one token."""
    delta_loss: float | None
    """Run's loss minus clean loss."""
    ablated_loss: float | None
    """With the spliced hook points zero-ablated; None without a splice."""
    ce_loss_score: float | None
    """(ablated - run) / (ablated - clean); None without a splice."""


@dataclass(frozen=True)
class SAERevision:
    """An SAE that took part."""

    sae_id: str
    sae_revision: str
    sae_dtype: str

    @classmethod
    def of(cls, message: sae_service_pb2.SAERevision) -> SAERevision:
        """From the wire."""
        return cls(message.sae_id, message.sae_revision, message.sae_dtype)


@dataclass(frozen=True, eq=False)
class RunResult:
    """What one input gave; what was not asked for is None or empty."""

    id: str
    index: int
    truncated: bool
    tokens: Tokens
    logits: Floats | None
    """[1 or n, d_vocab]."""
    top_logits: TopLogits | None
    loss: float | None
    """Mean cross-entropy, nats per token; None for inputs of one token."""
    token_logprobs: Floats | None
    """[n - 1]."""
    features: tuple[SAEEncoding, ...]
    """One per query."""
    activations: Mapping[str, Floats]
    """By hook point, [n, d] or [n, n_heads, d_head]."""
    comparison: RunComparison | None
    served_by: ServedBy
    saes: tuple[SAERevision, ...]
    """Every SAE that took part in the request."""

    @classmethod
    def of(
        cls,
        message: sae_service_pb2.RunResult,
        served_by: ServedBy,
        saes: tuple[SAERevision, ...],
    ) -> RunResult:
        """From the wire."""
        return cls(
            message.id,
            message.input_index,
            message.truncated,
            Tokens.of(message.tokens),
            _tensor(message, "logits"),
            TopLogits(
                tensor_to_numpy(message.top_logits.ids),
                tensor_to_numpy(message.top_logits.logits, floating=True),
                tensor_to_numpy(message.top_logits.logprobs, floating=True),
            )
            if message.HasField("top_logits")
            else None,
            message.loss if message.HasField("loss") else None,
            _tensor(message, "token_logprobs"),
            tuple(SAEEncoding.of(e) for e in message.features),
            {
                a.hook_name: tensor_to_numpy(a.activations, floating=True)
                for a in message.activations
            },
            _comparison(message.comparison) if message.HasField("comparison") else None,
            served_by,
            saes,
        )


def _tensor(message: sae_service_pb2.RunResult, field: Any) -> Floats | None:
    return (
        tensor_to_numpy(getattr(message, field), floating=True) if message.HasField(field) else None
    )


def _comparison(message: sae_service_pb2.RunComparison) -> RunComparison:
    return RunComparison(
        message.kl,
        message.clean_loss if message.HasField("clean_loss") else None,
        message.delta_loss if message.HasField("delta_loss") else None,
        message.ablated_loss if message.HasField("ablated_loss") else None,
        message.ce_loss_score if message.HasField("ce_loss_score") else None,
    )
