"""A loaded SAE: what it is, and what answers with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from saekit_core.lm.hook_points import HookPoint
from saekit_core.lm.interventions import BoundSAE
from saekit_core.sae import SAE, FeaturesFile, Origin, SAEConfig


@dataclass(frozen=True, eq=False)
class SAEInfo:
    """What there is to say of one revision of an SAE, wherever its weights are now."""

    sae_id: str
    """Its name in this server."""
    revision: str
    """First 12 hex digits of the hash over every file that determines an answer."""
    cfg: SAEConfig
    """As the folder has it."""
    dtype: str
    """Number type that it runs in."""
    hook: HookPoint
    """Where it reads."""
    hook_out: HookPoint
    """Where it writes; `hook` but for transcoders."""
    source: str
    """The spec that it was loaded from."""
    folder: Path
    """Where its files are, or the one that is it."""
    nbytes: int
    """Memory of its weights in `dtype`."""
    loaded_at: float
    """Seconds since the epoch."""
    reads_centred: bool = False
    """Whether it was trained on activations less their mean, which the model here does not have."""
    writes_centred: bool = False
    """The same of what it reconstructs."""
    origin: Origin | None = None
    """What was known of it besides its files."""
    features: FeaturesFile | None = None
    """What was recorded of its features."""
    pinned: bool = False
    """Stays loaded whatever the memory budget says, and beside later revisions."""
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """From the manifest."""
    watch_features: tuple[int, ...] = ()
    """Features whose firing the operator wants counted."""
    only_revision: str | None = None
    """The revision that the manifest ties the name to."""
    device: str = "cpu"
    """Where the weights lie now; ``disk`` while they are in no memory."""

    @property
    def name(self) -> str:
        """``sae_id@revision``."""
        return f"{self.sae_id}@{self.revision}"

    @property
    def config_json(self) -> str:
        """The content of its ``cfg.json``, in the present layout."""
        return json.dumps(self.cfg.to_dict())


@dataclass(eq=False)
class LastUse:
    """When one revision was last asked for; written without a lock, a lost update does no harm."""

    at: float
    """Seconds of the registry's monotonic clock."""
    kept_until: float = 0.0
    """Not moved out before, unless it was used: what was just brought back serves once at least."""


@dataclass(frozen=True, eq=False)
class LoadedSAE:
    """One revision of an SAE, ready to answer.

    It never changes. Whoever holds it can finish with it, whatever the registry does meanwhile.
    """

    info: SAEInfo
    bound: BoundSAE
    use: LastUse

    @property
    def sae(self) -> SAE:
        return self.bound.sae

    @property
    def sae_id(self) -> str:
        return self.info.sae_id

    @property
    def revision(self) -> str:
        return self.info.revision

    @property
    def features(self) -> FeaturesFile | None:
        return self.info.features

    @property
    def dtype(self) -> str:
        return self.info.dtype

    def with_info(self, info: SAEInfo) -> LoadedSAE:
        """The same weights under another description."""
        return replace(self, info=info)


@dataclass(frozen=True, eq=False)
class ParkedSAE:
    """One revision of an SAE that is registered, but had to leave the device's memory."""

    info: SAEInfo
    use: LastUse
    weights: SAE | None
    """In the host's memory; None: they are read again from `info.folder`."""

    def with_info(self, info: SAEInfo) -> ParkedSAE:
        """The same weights under another description."""
        return replace(self, info=info)


Entry = LoadedSAE | ParkedSAE
