"""Transcoders of circuit-tracer: a safetensors file per layer, and ``config.yaml`` for all.

From its ``single_layer_transcoder.py`` and ``cross_layer_transcoder.py``: ``W_enc`` is
[d_sae, d_in], ``W_dec`` [d_sae, d_out], ``W_skip`` [d_out, d_in]; with
``activation_function.threshold`` it is a JumpReLU, with ``activation: topk`` the k largest, else
a ReLU. SAELens reads ReLU transcoders only.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Final

from torch import Tensor

from saekit_core.sae.formats.cross_layer import summed_decoders
from saekit_core.sae.formats.files import Files
from saekit_core.sae.formats.format import FileFormat, Reading
from saekit_core.sae.formats.place import Place
from saekit_core.sae.formats.settings import Settings
from saekit_core.sae.formats.tensor_file import TensorFile

CONFIG_FILE: Final = "config.yaml"
RUN_FILES: Final = ("wandb-config.yaml", "wanb-config.yaml")
"""What the training run recorded; the second name is in use, too."""
_CLT_FILE: Final = re.compile(r"W_(enc|dec)_\d+\.safetensors")
_THRESHOLD: Final = "activation_function.threshold"
_COMMON: Final = {
    "dtype": "float32",
    "apply_b_dec_to_input": False,
    # circuit-tracer runs the model with its norms as they are.
    "model_from_pretrained_kwargs": {"fold_ln": False},
}


@dataclass(frozen=True)
class CircuitTracer(FileFormat):
    """``layer_N.safetensors``: a transcoder of one MLP."""

    name: str = "circuit_tracer"
    pattern: re.Pattern[str] = field(default=re.compile(r"layer_\d+\.safetensors"), kw_only=True)
    suffixes: tuple[str, ...] = (".safetensors",)
    optional: tuple[str, ...] = (CONFIG_FILE, *RUN_FILES)

    def files(self, listing: Collection[str], file: str | None = None) -> tuple[str, ...]:
        if file is not None and _CLT_FILE.fullmatch(file):
            return ()
        return super().files(listing, file)

    def holds(self, keys: Collection[str]) -> bool:
        return {"W_enc", "W_dec", "b_enc", "b_dec"} <= set(keys)

    def facts(self, place: Place) -> dict[str, Any]:
        layer, qwen = place.find(r"layer_(\d+)"), place.find(r"qwen3-(\d+(?:\.\d+)?)b")
        return {
            "model_name": f"Qwen/Qwen3-{qwen[1]}B" if qwen else None,
            "layer": int(layer[1]) if layer else None,
            "hook_name": place.hook(),
        }

    def read(self, files: Files) -> Reading:
        config = files.settings(CONFIG_FILE) if CONFIG_FILE in files else Settings(CONFIG_FILE, {})
        run_file = next((name for name in RUN_FILES if name in files), None)
        run = files.settings(run_file) if run_file else Settings(RUN_FILES[0], {})
        weights = files.tensors()
        tensors: dict[str, Tensor] = {
            "W_enc": weights.take("W_enc", "d_sae", "d_in").mT,
            "W_dec": weights.take("W_dec", "d_sae", "d_out"),
            "b_enc": weights.take("b_enc", "d_sae"),
            "b_dec": weights.take("b_dec", "d_out"),
        }
        skip = "W_skip" in weights
        if skip:
            tensors["W_skip"] = weights.take("W_skip", "d_out", "d_in")
        kind, k = _activation(config, weights)
        if kind == "jumprelu":
            tensors["threshold"] = weights.take(_THRESHOLD, "d_sae")
        weights.finish()
        prefix = {"relu": "", "jumprelu": "jumprelu_", "topk": "topk_"}[kind]
        values = {
            **_COMMON,
            "architecture": f"{prefix}{'skip_' if skip else ''}transcoder",
            **files.sizes,
            "k": k,
            "model_name": config.get("model_name", str, None),
            "dataset_path": "monology/pile-uncopyrighted",
            "context_size": run.get("batch_size.value", int, None),
            **_hooks(config, files.facts.get("layer"), "mlp.hook_in"),
        }
        return Reading(values, tensors, weights.file)


@dataclass(frozen=True)
class CircuitTracerCLTLayer(FileFormat):
    """``W_enc_N.safetensors`` and ``W_dec_N.safetensors``: a layer of a cross-layer transcoder."""

    name: str = "circuit_tracer_clt_layer"
    pattern: re.Pattern[str] = field(default=re.compile(r"W_enc_\d+\.safetensors"), kw_only=True)
    suffixes: tuple[str, ...] = (".safetensors",)
    optional: tuple[str, ...] = (CONFIG_FILE,)

    def locate(self, path: str) -> tuple[str, str | None]:
        folder, name = super().locate(path)
        return folder, f"W_enc_{name}.safetensors" if name and name.isdigit() else name

    def companions(self, file: str) -> tuple[str, ...]:
        return (file.replace("W_enc_", "W_dec_"),) if self.pattern.fullmatch(file) else ("",)

    def read(self, files: Files) -> Reading:
        encoder = files.tensors()
        layer = encoder.file.removeprefix("W_enc_").removesuffix(".safetensors")
        decoder = files.tensors(f"W_dec_{layer}.safetensors")
        config = files.settings(CONFIG_FILE) if CONFIG_FILE in files else Settings(CONFIG_FILE, {})
        tensors = {
            "W_enc": encoder.take(f"W_enc_{layer}", "d_sae", "d_in").mT,
            "b_enc": encoder.take(f"b_enc_{layer}", "d_sae"),
            "b_dec": encoder.take(f"b_dec_{layer}", "d_out"),
            "W_dec": summed_decoders(decoder.take(f"W_dec_{layer}", "d_sae", "", "d_out")),
        }
        jump = f"threshold_{layer}" in encoder
        if jump:
            tensors["threshold"] = encoder.take(f"threshold_{layer}", "d_sae")
        encoder.finish()
        decoder.finish()
        values = {
            **_COMMON,
            "architecture": "jumprelu_transcoder" if jump else "transcoder",
            **files.sizes,
            "model_name": config.get("model_name", str, None),
            **_hooks(config, int(layer), "hook_resid_mid"),
        }
        return Reading(values, tensors, encoder.file)


def _activation(config: Settings, weights: TensorFile) -> tuple[str, int | None]:
    """relu, jumprelu or topk, and k."""
    activation = config.get("activation", str, None)
    if activation == "topk" or "k" in weights:
        k = weights.take_value("k", int) if "k" in weights else config.get("k", int)
        return "topk", int(k)
    config.expect("activation", "relu", "jump_relu", "jumprelu")
    if activation == "relu":
        weights.drop(_THRESHOLD)
        return "relu", None
    return "jumprelu" if _THRESHOLD in weights or activation else "relu", None


def _hooks(config: Settings, layer: int | None, reads: str) -> dict[str, Any]:
    """Where a layer reads and writes: what ``config.yaml`` says, else what is usual."""
    if layer is None:
        return {}
    return {
        "hook_name": f"blocks.{layer}.{config.get('feature_input_hook', str, reads)}",
        "hook_name_out": f"blocks.{layer}.{config.get('feature_output_hook', str, 'hook_mlp_out')}",
    }
