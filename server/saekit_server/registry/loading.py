"""From a folder to an SAE that is ready to answer: read once, checked, bound to the model."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import torch

from saekit_core.lm.errors import LMError
from saekit_core.lm.interventions import BoundSAE
from saekit_core.lm.model import LanguageModel
from saekit_core.sae import (
    SAE,
    Origin,
    OwnedFolder,
    SAEError,
    SAENotFoundError,
    read_sae_folder_owned,
)
from saekit_core.sae.dtypes import dtype_name, torch_dtype
from saekit_core.sae.formats import answer_paths
from saekit_server.errors import DomainError, exhausted, from_core, not_found, precondition
from saekit_server.registry.canary import check_canary, read_canary
from saekit_server.registry.fitting import fit
from saekit_server.registry.loaded import SAEInfo
from saekit_server.registry.sources import Source

_log = logging.getLogger(__name__)

T = TypeVar("T")
RunOnDevice = Callable[[Callable[[], T]], T]

_MOST_NARROWING: Final = 4
"""float64 weights in a 16-bit type: how much smaller than their file weights can be in memory."""
_NO_MEMORY: Final = re.compile(r"not enough memory|can't allocate memory|out of memory", re.I)


@dataclass(frozen=True)
class Loader:
    """Reads folders for one model, device and number type.

    run_on_device: calls a function on the thread that owns the device, and returns its result.
    """

    model: LanguageModel
    device: torch.device
    dtype: str | None
    run_on_device: RunOnDevice[Any]

    def read(self, folder: Path, budget: int | None, origin: Origin | None = None) -> OwnedFolder:
        """The checked content of a folder or file, in memory of our own.

        Raises:
            SAEError: the folder is missing or broken.
            DomainError: RESOURCE_EXHAUSTED, before reading, if it cannot fit `budget` bytes.
        """
        if budget is not None:
            try:
                size = sum(path.stat().st_size for path in answer_paths(folder, origin))
            except (SAEError, OSError):
                size = 0  # the reader says what is wrong
            if size > _MOST_NARROWING * budget:
                raise exhausted(f"its files have {size} bytes, the memory budget is {budget}")
        return read_sae_folder_owned(folder, origin=origin)

    def describe(self, owned: OwnedFolder, source: Source, loaded_at: float) -> SAEInfo:
        """What is known of an SAE before it is on the device.

        Raises:
            DomainError: FAILED_PRECONDITION, if it has no place in the model.
        """
        dtype = dtype_name(self.dtype or owned.cfg.dtype)
        place = fit(owned.cfg, self.model)
        itemsize = torch_dtype(dtype).itemsize
        return SAEInfo(
            sae_id=source.sae_id,
            revision=owned.revision,
            cfg=owned.cfg,
            dtype=dtype,
            hook=place.hook,
            hook_out=place.hook_out,
            reads_centred=place.reads_centred,
            writes_centred=place.writes_centred,
            source=source.spec,
            folder=source.folder,
            origin=source.origin,
            nbytes=sum(math.prod(t.shape) * itemsize for t in owned.tensors.values()),
            loaded_at=loaded_at,
            features=owned.features,
            device=str(self.device),
        )

    def build(self, owned: OwnedFolder, info: SAEInfo) -> BoundSAE:
        """The SAE on the device, at its hook points.

        Raises:
            LMError: its widths do not fit the hook points.
            SAEError: its weights do not fit the number type.
        """
        return self.bind(owned.build(self.device, info.dtype), info)

    def bind(self, sae: SAE, info: SAEInfo) -> BoundSAE:
        """An SAE at the hook points of `info`; raises LMError if it does not fit them."""
        key = (info.sae_id, info.revision)
        return BoundSAE(
            sae,
            info.sae_id,
            info.revision,
            info.hook,
            info.hook_out,
            key,
            info.reads_centred,
            info.writes_centred,
        )

    def check(self, bound: BoundSAE, owned: OwnedFolder) -> None:
        """Hold the SAE against its recorded L0 and explained variance, if there are any.

        Raises:
            DomainError: FAILED_PRECONDITION, if it is far off.
        """
        recorded = owned.features
        if recorded is None or (recorded.l0 is None and recorded.explained_variance is None):
            return
        check_canary(self.run_on_device(lambda: read_canary(self.model, bound)), recorded)


def moved(sae: SAE, device: torch.device) -> SAE:
    """The SAE's weights on another device; `sae` itself, which others may be using, stays."""
    weights: Mapping[str, torch.Tensor] = {
        name: tensor.detach().to(device) for name, tensor in sae.weights().items()
    }
    return SAE(replace(sae.cfg, device=str(device)), weights).requires_grad_(False)


def refusal(error: Exception, source: Source) -> DomainError:
    """What the caller of a load is told, whatever went wrong with the SAE at `source`."""
    if isinstance(error, DomainError):
        return error if error.field else error.at("source")
    # Paths of the server's disk are none of a caller's business.
    text = str(error).replace(str(source.folder), source.spec)
    if source.folder.is_file():
        text = text.replace(f" from {source.folder.parent}", " from its folder")
    if isinstance(error, SAENotFoundError):
        return not_found(text, field="source")
    if isinstance(error, SAEError | LMError):
        return precondition(text, field="source")
    if isinstance(error, MemoryError | RuntimeError) and (
        isinstance(error, MemoryError | torch.OutOfMemoryError) or _NO_MEMORY.search(text)
    ):
        return exhausted("out of memory while loading", field="source", retry_after_s=1.0)
    _log.error("loading %s failed", source.spec, exc_info=error)
    return from_core(error).at("source")
