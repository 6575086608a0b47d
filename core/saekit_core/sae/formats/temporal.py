"""Temporal SAEs (Lubana et al. 2025): ``conf.yaml`` and ``latest_ckpt.safetensors``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from saekit_core.sae.formats.files import Files
from saekit_core.sae.formats.format import FolderFormat, Reading
from saekit_core.sae.formats.place import Place

CONF_FILE: Final = "conf.yaml"
WEIGHTS_FILE: Final = "latest_ckpt.safetensors"
_KEYS: Final[Mapping[str, type]] = {
    "n_heads": int,
    "n_attn_layers": int,
    "bottleneck_factor": int,
    "sae_diff_type": str,
    "tied_weights": bool,
}


@dataclass(frozen=True)
class TemporalFolder(FolderFormat):
    """D is the decoder, E the encoder unless tied, b the bias; attention layers have our names."""

    name: str = "temporal"
    required: tuple[str, ...] = (CONF_FILE, WEIGHTS_FILE)
    mark: str = WEIGHTS_FILE

    def facts(self, place: Place) -> dict[str, Any]:
        layer = place.find(r"layer_(\d+)")
        return {"hook_name": f"blocks.{layer[1]}.hook_resid_post" if layer else place.hook()}

    def read(self, files: Files) -> Reading:
        conf = files.settings(CONF_FILE)
        files.sizes["d_in"] = d_in = conf.get("llm.dimin", int)
        files.sizes["d_sae"] = int(d_in * conf.get("sae.exp_factor", float))
        own: dict[str, Any] = {key: conf.get(f"sae.{key}", kind) for key, kind in _KEYS.items()}
        weights = files.tensors(WEIGHTS_FILE)
        tensors = {
            "W_dec": weights.take("D", "d_sae", "d_in"),
            "b_dec": weights.take("b", "d_in"),
        }
        if not own["tied_weights"]:
            tensors["W_enc"] = weights.take("E", "d_in", "d_sae")
        else:
            weights.drop("E")
        for key in weights.names():
            if key.startswith("attn_layers."):
                shape = ("", "d_sae") if key.endswith("weight") else ("",)
                tensors[key] = weights.take(key, *shape)
        weights.finish()
        values = {
            "architecture": "temporal",
            **files.sizes,
            **own,
            "kval_topk": conf.get("sae.kval_topk", int, None),
            "dtype": conf.get("data.dtype", str),
            "normalize_activations": "constant_scalar_rescale",
            "activation_normalization_factor": conf.get("sae.scaling_factor", float),
            "apply_b_dec_to_input": True,
        }
        return Reading(values, tensors, WEIGHTS_FILE, CONF_FILE)
