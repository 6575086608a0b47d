"""The features file: what was recorded about each feature of an SAE, beside its weights.

``features.json`` holds what people read (labels, snippets) and the SAE's summary figures;
``features.safetensors`` the arrays over all features::

    {"version": 1, "l0": 41.2, "explained_variance": 0.83, "tokens": 1000000,
     "labels": {"17": "a dog"},
     "examples": {"17": [{"tokens": ["The", " dog"], "activations": [0.0, 4.5], "peak": 1}]}}
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor

from saekit_core.sae.errors import SAEFormatError
from saekit_core.sae.layout import FEATURE_ARRAYS_FILE, FEATURES_FILE, check_finite
from saekit_core.sae.safetensors_file import read_mapped

VERSION: Final = 1
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Snippet:
    """A piece of text on which a feature is active."""

    tokens: tuple[str, ...]
    """The tokens' text, in order."""
    activations: tuple[float, ...]
    """The feature's activation at each token."""
    peak: int
    """Index of the token for which the snippet was chosen."""


@dataclass(frozen=True, eq=False)
class FeaturesFile:
    """Everything recorded about the features of one SAE; any part may be missing."""

    density: Floats | None = None
    """``[d_sae]``: fraction of tokens on which each feature is active."""
    max_activation: Floats | None = None
    """``[d_sae]``: largest activation seen of each feature."""
    labels: Mapping[int, str] = field(default_factory=dict)
    examples: Mapping[int, Sequence[Snippet]] = field(default_factory=dict)
    l0: float | None = None
    """Mean number of active features per token."""
    explained_variance: float | None = None
    """1 − E‖x−x̂‖²/(E‖x‖²−‖E x‖²)."""
    tokens: int | None = None
    """Number of tokens that the figures were taken over."""

    def check(self, d_sae: int) -> None:
        """Hold the record against the SAE that it is said to belong to.

        Raises:
            SAEFormatError: an array of another length, or a feature that the SAE does not have.
        """
        for name in _ARRAYS:
            array: Floats | None = getattr(self, name)
            if array is not None and array.shape != (d_sae,):
                raise _error(name, f"shape {list(array.shape)}, expected [{d_sae}]", arrays=True)
        for name in ("labels", "examples"):
            for feature in getattr(self, name):
                if not 0 <= feature < d_sae:
                    raise _error(name, f"feature {feature} is not in 0..{d_sae - 1}")


_ARRAYS: Final = ("density", "max_activation")
_SUMMARIES: Final = ("l0", "explained_variance")


def read_features_file(folder: str | Path) -> FeaturesFile | None:
    """The features file of an SAE folder; None if it has none.

    Raises:
        SAEFormatError: it is broken, naming file and key.
    """
    text_path, arrays_path = Path(folder) / FEATURES_FILE, Path(folder) / FEATURE_ARRAYS_FILE
    text = text_path.read_bytes() if text_path.exists() else None
    arrays = read_mapped(arrays_path) if arrays_path.exists() else None
    return parse_features(text, arrays)


def parse_features(text: bytes | None, arrays: Mapping[str, Tensor] | None) -> FeaturesFile | None:
    """A features file from the content of its two parts, of which either may be missing.

    The arrays are copied.
    """
    if text is None and arrays is None:
        return None
    values = {} if text is None else _load_json(text)
    unknown = values.keys() - {"version", "tokens", "labels", "examples", *_SUMMARIES}
    if unknown:
        raise _error(sorted(unknown)[0], "not a key of a features file")
    arrays = arrays or {}
    for name in arrays.keys() - set(_ARRAYS):
        raise _error(name, f"none of {', '.join(_ARRAYS)}", arrays=True)
    check_finite(arrays, file=FEATURE_ARRAYS_FILE)
    tokens = values.get("tokens")
    if tokens is not None and (type(tokens) is not int or tokens < 0):
        raise _error("tokens", f"expected a count, got {tokens!r:.80}")
    return FeaturesFile(
        density=_array(arrays, "density"),
        max_activation=_array(arrays, "max_activation"),
        l0=_number(values.get("l0"), "l0"),
        explained_variance=_number(values.get("explained_variance"), "explained_variance"),
        tokens=tokens,
        labels={
            feature: _text(label, f"labels.{feature}")
            for feature, label in _by_feature(values, "labels").items()
        },
        examples={
            feature: _snippets(snippets, f"examples.{feature}")
            for feature, snippets in _by_feature(values, "examples").items()
        },
    )


def write_features_file(folder: str | Path, features: FeaturesFile) -> None:
    """Write both parts into an existing folder.

    A folder that is being served must not change: write the SAE and its features aside together,
    which `write_sae_folder` does.
    """
    values: dict[str, Any] = {"version": VERSION}
    for name in (*_SUMMARIES, "tokens"):
        if getattr(features, name) is not None:
            values[name] = getattr(features, name)
    values["labels"] = {str(f): label for f, label in sorted(features.labels.items())}
    values["examples"] = {
        str(f): [
            {
                "tokens": list(snippet.tokens),
                "activations": [float(a) for a in snippet.activations],
                "peak": int(snippet.peak),
            }
            for snippet in snippets
        ]
        for f, snippets in sorted(features.examples.items())
    }
    text = json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    (Path(folder) / FEATURES_FILE).write_text(text, encoding="utf-8")
    arrays = {
        name: np.ascontiguousarray(getattr(features, name), dtype=np.float32)
        for name in _ARRAYS
        if getattr(features, name) is not None
    }
    if arrays:
        save_file(arrays, Path(folder) / FEATURE_ARRAYS_FILE)


def _array(arrays: Mapping[str, Tensor], name: str) -> Floats | None:
    return np.array(arrays[name].to(torch.float32).numpy()) if name in arrays else None


def _load_json(text: bytes) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SAEFormatError(f"{FEATURES_FILE}: no JSON: {error}") from None
    if not isinstance(values, dict):
        raise SAEFormatError(f"{FEATURES_FILE}: expected an object, got {type(values).__name__}")
    if values.get("version") != VERSION:
        raise _error("version", f"{values.get('version')!r:.80}, expected {VERSION}")
    return values


def _by_feature(values: Mapping[str, Any], name: str) -> dict[int, Any]:
    block = values.get(name, {})
    if not isinstance(block, dict):
        raise _error(name, f"expected an object, got {type(block).__name__}")
    for key in block:
        if not (key.isascii() and key.isdigit()):
            raise _error(f"{name}.{key:.20}", "expected a feature's number as the key")
    return {int(key): value for key, value in block.items()}


def _snippets(value: Any, key: str) -> tuple[Snippet, ...]:
    if not isinstance(value, list):
        raise _error(key, f"expected a list, got {type(value).__name__}")
    return tuple(_snippet(item, f"{key}[{i}]") for i, item in enumerate(value))


def _snippet(value: Any, key: str) -> Snippet:
    if not isinstance(value, dict) or value.keys() != {"tokens", "activations", "peak"}:
        raise _error(key, f"expected tokens, activations and peak, got {value!r:.80}")
    tokens, activations, peak = value["tokens"], value["activations"], value["peak"]
    if not isinstance(tokens, list) or not isinstance(activations, list):
        raise _error(key, "tokens and activations must be lists")
    if len(tokens) != len(activations):
        raise _error(key, f"{len(tokens)} tokens, but {len(activations)} activations")
    if type(peak) is not int or not 0 <= peak < len(tokens):
        raise _error(f"{key}.peak", f"{peak!r:.80} is no index into {len(tokens)} tokens")
    numbers = [_number(a, f"{key}.activations") for a in activations]
    return Snippet(
        tokens=tuple(_text(t, f"{key}.tokens") for t in tokens),
        activations=tuple(0.0 if number is None else number for number in numbers),
        peak=peak,
    )


def _number(value: Any, key: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _error(key, f"expected a finite number, got {value!r:.80}")
    return float(value)


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str):
        raise _error(key, f"expected text, got {value!r:.80}")
    return value


def _error(key: str, problem: str, *, arrays: bool = False) -> SAEFormatError:
    file = FEATURE_ARRAYS_FILE if arrays else FEATURES_FILE
    return SAEFormatError(f"{file}: {key}: {problem}", field=key)
