"""From the files of an SAE to its configuration and its tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

import torch
from torch import Tensor

from saekit_core.sae.architecture_keys import own_keys
from saekit_core.sae.architectures import architecture_of
from saekit_core.sae.config import SAEConfig
from saekit_core.sae.errors import SAEError, SAEFormatError
from saekit_core.sae.folding import FOLDED_FROM, folded_config, folded_weights
from saekit_core.sae.formats import Found
from saekit_core.sae.formats.files import Files
from saekit_core.sae.formats.format import Format, Reading
from saekit_core.sae.formats.place import Place
from saekit_core.sae.layout import check_finite, check_weights, convert, narrows
from saekit_core.sae.metadata import METADATA_KEYS
from saekit_core.sae.origin import Origin

_CONFIG_KEYS: Final = {field.name for field in fields(SAEConfig)} - {"metadata"}
_KEYS: Final = _CONFIG_KEYS | set(METADATA_KEYS)
_NO_ANSWER: Final = frozenset(
    {"context_size", "dataset_path", "device", "hf_hook_name", "model_name", "neuronpedia_id"}
)
"""Configuration that changes no answer, and therefore no revision."""


@dataclass(frozen=True, eq=False)
class Content:
    """What the files of an SAE came to: its weights as they are stored, and what is to be done."""

    cfg: SAEConfig
    """With the normalisation folded, in the number type that the SAE states."""
    tensors: Mapping[str, Tensor]
    """By our names; number types may differ. The factor is not folded into them yet."""
    norm_scaling_factor: float | None = None
    """See `saekit_core.sae.folding`; None: nothing is to be folded."""

    def built(
        self, device: str | torch.device, dtype: str | torch.dtype | None, *, finite: bool
    ) -> tuple[SAEConfig, dict[str, Tensor]]:
        """Configuration and weights on a device and in a number type (None: its own).

        Nothing is copied that is as it is wanted.

        Args:
            finite: whether to refuse values that the number type or the factor makes infinite.

        Raises:
            SAEFormatError: there are such values.
        """
        # Converted first: a factor is not to cost a 16-bit weight bits that it need not.
        cfg, tensors = convert(self.cfg, self.tensors, device=device, dtype=dtype)
        if self.norm_scaling_factor is not None:
            tensors = folded_weights(tensors, self.norm_scaling_factor)
        if finite and (self.norm_scaling_factor is not None or narrows(self.tensors, cfg.dtype)):
            check_finite(tensors)
        return cfg, tensors


def read_content(found: Found, files: Files) -> Content:
    """Read the files of an SAE, whatever its format.

    Raises:
        SAEFormatError: naming file and key.
    """
    entry = found.format(files)
    origin = found.place.origin
    files.facts = _told(entry, found.place)
    reading = entry.read(files)
    file = reading.config_file or reading.file
    try:
        cfg = SAEConfig.from_dict(_values(reading, entry.facts(found.place), origin))
        architecture_of(cfg)
    except SAEFormatError as error:
        raise SAEFormatError(f"{file}: {error}", field=error.field) from None
    tensors = check_weights(cfg, reading.tensors, file=reading.file)
    if files.finite and not reading.checked:
        check_finite(tensors, file=reading.file)
    factor = None
    if cfg.normalize_activations == FOLDED_FROM:
        factor = reading.norm_scaling_factor or origin.norm_scaling_factor
    if factor is None:
        return Content(cfg, tensors)
    try:
        return Content(folded_config(cfg, factor), tensors, factor)
    except SAEError as error:
        raise SAEFormatError(f"{file}: {error}", field=error.field) from None


def outside_facts(found: Found) -> bytes:
    """What determines an answer besides the files, for a revision; empty if nothing does."""
    # Formats that only the content tells apart read the same facts from a name.
    told = _told(found.formats[0], found.place)
    answering = {
        key: value for key, value in told.items() if value is not None and key not in _NO_ANSWER
    }
    if not answering:
        return b""
    return json.dumps(answering, sort_keys=True, separators=(",", ":"), default=str).encode()


def _told(entry: Format, place: Place) -> dict[str, Any]:
    """What is known of an SAE besides its files."""
    origin = place.origin
    told = {**entry.facts(place), **origin.config_overrides}
    return {**told, "norm_scaling_factor": origin.norm_scaling_factor}


def _values(reading: Reading, facts: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
    """A configuration of the v6 layout: what files say, what names tell, what the origin knows."""
    if "metadata" in reading.values:
        values = dict(reading.values)
        block = values["metadata"]
    else:
        known = {key: value for key, value in facts.items() if key in _KEYS or key[:3] == "hf_"}
        known = {"prepend_bos": True, **known, **_said(reading.values)}
        values = {key: value for key, value in known.items() if key in _CONFIG_KEYS}
        block = {key: value for key, value in known.items() if key not in _CONFIG_KEYS}
    if not isinstance(block, Mapping):
        return values  # which is refused by its type
    block = dict(block)
    for key in ("model_name", "neuronpedia_id"):
        if getattr(origin, key) is not None and block.get(key) is None:
            block[key] = getattr(origin, key)
    for key, value in origin.config_overrides.items():
        if key not in _KEYS:
            raise SAEFormatError(
                f"config_overrides.{key}: not a key of a configuration",
                field=f"config_overrides.{key}",
            )
        (values if key in _CONFIG_KEYS else block)[key] = value
    if "metadata" not in reading.values:
        _complete(values, block)
    return {**values, "metadata": block}


def _complete(values: dict[str, Any], block: Mapping[str, Any]) -> None:
    """What depends on values that may come from anywhere."""
    if "hook_z" in str(block.get("hook_name")):
        values.setdefault("reshape_activations", "hook_z")
    if "k" in own_keys(str(values["architecture"])) and values.get("k") is None:
        raise SAEFormatError(
            "k: neither the files nor their path tell how many features stay active; give "
            "config_overrides={'k': ...} in the Origin",
            field="k",
        )


def _said(values: Mapping[str, Any]) -> dict[str, Any]:
    # Without a BOS of its own, an SAE leaves it to the model.
    return {k: v for k, v in values.items() if v is not None or k == "prepend_bos"}
