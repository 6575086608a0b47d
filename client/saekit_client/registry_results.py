"""What the registry knows: SAEs, features, the model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
from google.protobuf.message import Message

from saekit.v1 import registry_service_pb2 as pb

WatchKind = Literal["present", "synced", "loaded", "replaced", "unloaded", "failed"]


@dataclass(frozen=True)
class SAEInfo:
    """A loaded SAE."""

    sae_id: str
    revision: str
    architecture: str
    d_in: int
    d_sae: int
    d_out: int
    hook_name: str
    hook_name_out: str
    dtype: str
    normalize_activations: str
    model_name: str
    context_size: int
    prepend_bos: bool | None
    source: str
    pinned: bool
    bytes: int
    device: str
    l0: float | None
    explained_variance: float | None
    loaded_at: float
    has_features: bool
    labels: Mapping[str, str]
    k: int | None
    neuronpedia_id: str
    """Empty if its metadata has none."""
    neuronpedia_url: str
    """Its page; empty if it has none."""

    @classmethod
    def of(cls, m: pb.SAEInfo) -> SAEInfo:
        """From the wire."""
        return cls(
            m.sae_id,
            m.revision,
            m.architecture,
            m.d_in,
            m.d_sae,
            m.d_out,
            m.hook_name,
            m.hook_name_out,
            m.dtype,
            m.normalize_activations,
            m.model_name,
            m.context_size,
            _optional(m, "prepend_bos"),
            m.source,
            m.pinned,
            m.bytes,
            m.device,
            _optional(m, "l0"),
            _optional(m, "explained_variance"),
            m.loaded_at,
            m.has_features,
            dict(m.labels),
            _optional(m, "k"),
            m.neuronpedia_id,
            m.neuronpedia_url,
        )


@dataclass(frozen=True)
class SAEDetails:
    """An SAE and its cfg.json."""

    info: SAEInfo
    config: Mapping[str, Any]

    @classmethod
    def of(cls, m: pb.GetSAEResponse) -> SAEDetails:
        """From the wire."""
        return cls(SAEInfo.of(m.sae), json.loads(m.config_json or "{}"))


@dataclass(frozen=True)
class Loaded:
    """What LoadSAE did."""

    sae: SAEInfo
    replaced_revision: str
    """Empty if nothing was replaced."""


@dataclass(frozen=True)
class WatchEvent:
    """A change of the registry."""

    kind: WatchKind
    """present, synced: the state when the watch began; then loaded, replaced, unloaded, failed."""
    sae: SAEInfo | None
    """None for synced; for failed only sae_id and source are set."""
    error: str
    """With failed: why."""

    @classmethod
    def of(cls, m: pb.WatchSAEsResponse) -> WatchEvent:
        """From the wire."""
        kind = pb.WatchSAEsResponse.Event.Name(m.event).removeprefix("EVENT_").lower()
        sae = SAEInfo.of(m.sae) if m.HasField("sae") else None
        return cls(cast(WatchKind, kind), sae, m.error)


@dataclass(frozen=True)
class HookPointInfo:
    """A hook point."""

    name: str
    canonical_name: str
    shape: tuple[int, ...]
    """Shape of its activations after [rows, positions]."""


@dataclass(frozen=True)
class Limits:
    """Limits of a server."""

    max_input_tokens: int
    max_slot_tokens: int
    slots: int
    max_message_bytes: int
    max_queued_requests: int
    max_queued_tokens: int


@dataclass(frozen=True)
class ModelInfo:
    """The model that a server keeps loaded."""

    name: str
    revision: str
    dtype: str
    device: str
    architecture: str
    n_layers: int
    d_model: int
    d_vocab: int
    limits: Limits
    has_chat_template: bool
    versions: Mapping[str, str]
    hook_points: tuple[HookPointInfo, ...]
    """Only when asked for."""
    bos_id: int | None
    eos_ids: tuple[int, ...]
    capabilities: tuple[str, ...]

    @classmethod
    def of(cls, m: pb.GetModelResponse) -> ModelInfo:
        """From the wire."""
        limits = m.limits
        return cls(
            m.name,
            m.revision,
            m.dtype,
            m.device,
            m.architecture,
            m.n_layers,
            m.d_model,
            m.d_vocab,
            Limits(
                limits.max_input_tokens,
                limits.max_slot_tokens,
                limits.slots,
                limits.max_message_bytes,
                limits.max_queued_requests,
                limits.max_queued_tokens,
            ),
            m.has_chat_template,
            dict(m.versions),
            tuple(HookPointInfo(h.name, h.canonical_name, tuple(h.shape)) for h in m.hook_points),
            _optional(m, "bos_id"),
            tuple(m.eos_ids),
            tuple(m.capabilities),
        )


@dataclass(frozen=True)
class TokenScore:
    """A token that a direction makes likelier (score > 0) or less likely."""

    id: int
    text: str
    score: float
    """Change of its logit per unit of activation, before the final norm."""


@dataclass(frozen=True)
class FeatureNeighbour:
    """A near feature."""

    index: int
    cosine: float
    label: str


@dataclass(frozen=True, eq=False)
class FeatureExample:
    """A text on which a feature is active."""

    tokens: tuple[str, ...]
    activations: npt.NDArray[np.float32]
    """[tokens]."""


@dataclass(frozen=True, eq=False)
class FeatureInfo:
    """What is known of a feature."""

    index: int
    label: str
    """Empty if it has none."""
    decoder_norm: float
    encoder_norm: float
    density: float | None
    """Share of tokens on which it is active; None if not recorded."""
    max_activation: float | None
    """None if not recorded."""
    top_tokens: tuple[TokenScore, ...]
    bottom_tokens: tuple[TokenScore, ...]
    neighbours: tuple[FeatureNeighbour, ...]
    examples: tuple[FeatureExample, ...]
    neuronpedia_url: str
    """Its page on Neuronpedia; empty if the SAE has none."""

    @classmethod
    def of(cls, m: pb.FeatureInfo) -> FeatureInfo:
        """From the wire."""
        return cls(
            m.index,
            m.label,
            m.decoder_norm,
            m.encoder_norm,
            _optional(m, "density"),
            _optional(m, "max_activation"),
            tuple(TokenScore(t.id, t.text, t.score) for t in m.top_tokens),
            tuple(TokenScore(t.id, t.text, t.score) for t in m.bottom_tokens),
            tuple(FeatureNeighbour(n.index, n.cosine, n.label) for n in m.neighbours),
            tuple(
                FeatureExample(tuple(e.tokens), np.array(e.activations, dtype=np.float32))
                for e in m.examples
            ),
            m.neuronpedia_url,
        )


@dataclass(frozen=True, eq=False)
class Features:
    """Features of one SAE."""

    sae_id: str
    sae_revision: str
    features: tuple[FeatureInfo, ...]

    @classmethod
    def of(cls, m: pb.GetFeaturesResponse) -> Features:
        """From the wire."""
        return cls(m.sae_id, m.sae_revision, tuple(FeatureInfo.of(f) for f in m.features))


def _optional(message: Message, field: str) -> Any:
    return getattr(message, field) if message.HasField(field) else None
