"""Folders as SAELens 2 to 5 wrote them, by hand after what their ``to_dict`` says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from tests.parity.exchange import fill
from torch import Tensor

D_IN: Final = 16
D_SAE: Final = 32


@dataclass(frozen=True)
class OldFolder:
    """One folder of an older version."""

    name: str
    cfg: Mapping[str, Any]
    """``cfg.json``, word for word."""
    extra: tuple[str, ...] = ("b_enc",)
    """What its weights hold besides W_enc, W_dec and b_dec."""
    heads: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of activations for it."""
        return (1, 3, self.heads, D_IN // self.heads) if self.heads else (1, 3, D_IN)

    @property
    def dtype(self) -> str:
        return str(self.cfg["dtype"]).removeprefix("torch.")

    @property
    def inputs(self) -> str:
        """What names the random activations."""
        return f"{self.dtype}/{'x'.join(map(str, self.shape))}"

    @property
    def tensors(self) -> str:
        """What names the random weights."""
        return f"old {' '.join(self.extra)}/{self.dtype}"

    def weights(self) -> dict[str, Tensor]:
        shapes = {"W_enc": (D_IN, D_SAE), "W_dec": (D_SAE, D_IN), "b_dec": (D_IN,)}
        shapes |= dict.fromkeys(self.extra, (D_SAE,))
        dtype = getattr(torch, self.dtype)
        weights = {name: torch.empty(shape, dtype=dtype) for name, shape in shapes.items()}
        fill(weights.items(), self.tensors, "")
        if "scaling_factor" in weights:
            weights["scaling_factor"].fill_(1)  # as every SAE of that time had it
        return weights

    def write(self, path: Path) -> None:
        path.mkdir(parents=True)
        (path / "cfg.json").write_text(json.dumps(self.cfg))
        save_file(self.weights(), path / "sae_weights.safetensors")


_V2: Final = {
    "d_in": D_IN,
    "d_sae": D_SAE,
    "dtype": "torch.float32",
    "device": "cpu",
    "model_name": "tiny",
    "hook_point": "blocks.1.hook_resid_pre",
    "hook_point_layer": 1,
    "hook_point_head_index": None,
    "activation_fn": "relu",
    "apply_b_dec_to_input": True,
    "uses_scaling_factor": False,
    "sae_lens_training_version": "2.1.3",
    "prepend_bos": True,
    "dataset_path": "stories",
    "context_size": 64,
}
_V3: Final = {
    "d_in": D_IN,
    "d_sae": D_SAE,
    "dtype": "torch.float32",
    "device": "cpu",
    "model_name": "tiny",
    "hook_name": "blocks.1.hook_resid_pre",
    "hook_layer": 1,
    "hook_head_index": None,
    "activation_fn_str": "relu",
    "apply_b_dec_to_input": True,
    "finetuning_scaling_factor": False,
    "sae_lens_training_version": "3.5.0",
    "prepend_bos": True,
    "dataset_path": "stories",
    "context_size": 64,
    "normalize_activations": "none",
}
_V4: Final = {
    "architecture": "standard",
    "d_in": D_IN,
    "d_sae": D_SAE,
    "dtype": "float32",
    "device": "cpu",
    "model_name": "tiny",
    "hook_name": "blocks.1.hook_resid_pre",
    "hook_layer": 1,
    "hook_head_index": None,
    "activation_fn_str": "relu",
    "activation_fn_kwargs": {},
    "apply_b_dec_to_input": True,
    "finetuning_scaling_factor": False,
    "sae_lens_training_version": "4.4.5",
    "prepend_bos": True,
    "dataset_path": "stories",
    "dataset_trust_remote_code": True,
    "context_size": 64,
    "normalize_activations": "none",
    "neuronpedia_id": None,
    "model_from_pretrained_kwargs": {},
}
_V5: Final = {**_V4, "sae_lens_training_version": "5.10.3", "seqpos_slice": [None]}
_TOP_K: Final = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 6}}
_GATED: Final = ("b_gate", "b_mag", "r_mag")
_JUMPRELU: Final = ("b_enc", "threshold")
_HOOK_Z: Final = {"hook_name": "blocks.1.attn.hook_z"}

OLD_FOLDERS: Final = (
    OldFolder("v2", _V2, ("b_enc", "scaling_factor")),
    OldFolder(
        "v2_hook_z",
        {**_V2, "hook_point": "blocks.1.attn.hook_z", "normalize_activations": False},
        ("b_enc", "scaling_factor"),
        heads=4,
    ),
    OldFolder("v3", _V3, ("b_enc", "scaling_factor")),
    OldFolder("v3_normalized", {**_V3, "normalize_activations": True}),
    OldFolder("v3_raw", {**_V3, "apply_b_dec_to_input": False}),
    OldFolder("v3_hook_z", {**_V3, **_HOOK_Z}, heads=4),
    OldFolder("v4", {**_V4, "normalize_activations": "constant_norm_rescale"}),
    OldFolder("v4_gated", {**_V4, "architecture": "gated"}, _GATED),
    OldFolder("v4_jumprelu", {**_V4, "architecture": "jumprelu"}, _JUMPRELU),
    OldFolder("v4_topk", {**_V4, **_TOP_K, "normalize_activations": "layer_norm"}),
    OldFolder("v5", {**_V5, "normalize_activations": "expected_average_only_in"}),
    OldFolder("v5_topk", {**_V5, **_TOP_K, "architecture": "topk", "dtype": "bfloat16"}),
    OldFolder("v5_jumprelu", {**_V5, "architecture": "jumprelu", "dtype": "float16"}, _JUMPRELU),
    OldFolder("v5_hook_z", {**_V5, **_HOOK_Z, "normalize_activations": "layer_norm"}, heads=4),
)
