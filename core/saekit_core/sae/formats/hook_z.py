"""The attention SAEs of GPT-2 small by Kissane and others (2024): ``X.pt`` and ``X_cfg.json``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from saekit_core.sae.formats.files import Files
from saekit_core.sae.formats.format import FileFormat, Reading

_CONFIG: Final = "_cfg.json"


@dataclass(frozen=True)
class ConnorRobHookZ(FileFormat):
    """ReLU on the concatenated heads at a ``hook_z``, `b_dec` subtracted."""

    name: str = "connor_rob_hook_z"
    pattern: re.Pattern[str] = field(default=re.compile(r".+\.pt"), kw_only=True)
    suffixes: tuple[str, ...] = (".pt",)

    def companions(self, file: str) -> tuple[str, ...]:
        return (file.removesuffix(".pt") + _CONFIG,)

    def read(self, files: Files) -> Reading:
        (config_file,) = (name for name in files.names if name.endswith(_CONFIG))
        settings = files.settings(config_file)
        files.sizes |= {"d_in": settings.get("act_size", int)}
        files.sizes |= {"d_sae": settings.get("dict_size", int)}
        weights = files.tensors()
        tensors = {
            "W_enc": weights.take("W_enc", "d_in", "d_sae"),
            "W_dec": weights.take("W_dec", "d_sae", "d_in"),
            "b_enc": weights.take("b_enc", "d_sae"),
            "b_dec": weights.take("b_dec", "d_in"),
        }
        weights.finish()
        values = {
            "architecture": "standard",
            **files.sizes,
            "dtype": "float32",
            "model_name": "gpt2-small",
            "hook_name": settings.get("act_name", str),
            "reshape_activations": "hook_z",
            "dataset_path": "Skylion007/openwebtext",
            "context_size": 128,
        }
        return Reading(values, tensors, weights.file, config_file)
