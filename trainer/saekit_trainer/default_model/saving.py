"""Writing the default model so that small files load to exactly what was measured."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
from transformers import LlamaForCausalLM


def round_to_bfloat16(model: LlamaForCausalLM) -> None:
    """Rounds every weight in place, so that a bfloat16 file holds exactly the float32 model."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.bfloat16().float())


def save_model(model: LlamaForCausalLM, folder: Path) -> None:
    """Writes bfloat16 weights under a config that loads them as float32."""
    # A cast copy of the model, not of its state: tied weights stay one tensor in the file.
    copy.deepcopy(model).bfloat16().save_pretrained(folder)
    # The writer leaves it readable by its owner alone, and an installed package is for everyone.
    (folder / "model.safetensors").chmod(0o644)
    path = folder / "config.json"
    fields = {**json.loads(path.read_text(encoding="utf-8")), "dtype": "float32"}
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
