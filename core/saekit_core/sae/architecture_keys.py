"""Which keys of a configuration belong to one kind of SAE alone, and what they are if not given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from saekit_core.sae.errors import SAEFormatError
from saekit_core.sae.json_values import is_json, wrong_type

TRANSCODERS: Final = (
    "transcoder",
    "skip_transcoder",
    "jumprelu_transcoder",
    "jumprelu_skip_transcoder",
    "topk_transcoder",
    "topk_skip_transcoder",
)
"""Architectures that read at one hook point and write at another."""


@dataclass(frozen=True)
class Key:
    """A key of `SAEConfig` that only some architectures have."""

    kind: type
    default: Any
    """Its value where a configuration does not give it; None: none is assumed."""
    least: float | None = None
    """Smallest value that makes sense."""
    choices: tuple[str, ...] = ()

    def check(self, name: str, value: object) -> None:
        """Raise SAEFormatError unless `value` is one that this key may have (None apart)."""
        kinds = (int, float) if self.kind is float else (self.kind,)
        if not is_json(value, *kinds):
            raise wrong_type(name, value, self.kind.__name__)
        if self.choices and value not in self.choices:
            raise SAEFormatError(
                f"{name}: {value!r} is none of {', '.join(self.choices)}", field=name
            )
        # Written so that NaN fails.
        if self.least is not None and not value >= self.least:  # type: ignore[operator]
            raise SAEFormatError(f"{name}: {value} is below {self.least:g}", field=name)


_TOP_K: Final = {"k": Key(int, None), "rescale_acts_by_decoder_norm": Key(bool, False)}

ARCHITECTURE_KEYS: Final[Mapping[str, Mapping[str, Key]]] = {
    "topk": _TOP_K,
    "abstopk": _TOP_K,
    "matching_pursuit": {
        "residual_threshold": Key(float, 1e-2, least=0),
        "max_iterations": Key(int, None, least=1),
        "stop_on_duplicate_support": Key(bool, True),
    },
    "temporal": {
        "n_heads": Key(int, 8, least=1),
        "n_attn_layers": Key(int, 1, least=1),
        "bottleneck_factor": Key(int, 64, least=1),
        "sae_diff_type": Key(str, "topk", choices=("relu", "topk")),
        "kval_topk": Key(int, None, least=1),
        "tied_weights": Key(bool, True),
        "activation_normalization_factor": Key(float, 1.0),
    },
    **{
        name: {"d_out": Key(int, None, least=1)} | ({"k": Key(int, None)} if "topk" in name else {})
        for name in TRANSCODERS
    },
}
"""Per architecture, its own keys; architectures without any are left out."""

ALL_KEYS: Final = frozenset(name for keys in ARCHITECTURE_KEYS.values() for name in keys)


def own_keys(architecture: str) -> Mapping[str, Key]:
    """The keys that only this architecture and its like have, by name."""
    return ARCHITECTURE_KEYS.get(architecture, {})
