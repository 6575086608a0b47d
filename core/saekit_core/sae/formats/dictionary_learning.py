"""SAEs of the library dictionary_learning, every trainer of it: ``config.json`` and ``ae.pt``.

The layouts are those of its classes (``dictionary.py``, ``trainers/*.py``), which ``config.json``
names as ``trainer.dict_class``:

| class                              | becomes                                                    |
|------------------------------------|------------------------------------------------------------|
| AutoEncoder                        | standard                                                   |
| AutoEncoderNew                     | standard, whose bias is not subtracted from the input      |
| GatedAutoEncoder                   | gated                                                      |
| AutoEncoderTopK                    | topk; its threshold is only for another way to encode      |
| BatchTopKSAE                       | jumprelu with the one threshold                            |
| MatryoshkaBatchTopKSAE             | the same                                                   |
| JumpReluAutoEncoder                | jumprelu, whose bias is not subtracted from the input      |

Their ``from_pretrained`` makes the decoder rows of an AutoEncoder unit vectors; here, as in
SAELens, feature activations keep the scale of the file, and `SAE.fold_W_dec_norm` does the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor

from saekit_core.sae.formats.files import Files
from saekit_core.sae.formats.format import FolderFormat, Reading
from saekit_core.sae.formats.settings import Settings
from saekit_core.sae.formats.tensor_file import TensorFile, row_major

CONFIG_FILE: Final = "config.json"
WEIGHTS_FILE: Final = "ae.pt"

_SUBMODULES: Final = (
    (r"(?:resid_post|residual|resid)(?:_layer_\d+)?", "hook_resid_post"),
    (r"mlp(?:_out)?(?:_layer_\d+)?", "hook_mlp_out"),
    (r"(?:attn|att|attention)(?:_out)?(?:_layer_\d+)?", "hook_attn_out"),
    (r"(?:.*\.)?(?:layers|h)\.\d+", "hook_resid_post"),
)


@dataclass(frozen=True)
class DictionaryLearning(FolderFormat):
    """``config.json`` and ``ae.pt``."""

    name: str = "dictionary_learning"
    required: tuple[str, ...] = (CONFIG_FILE, WEIGHTS_FILE)
    mark: str = WEIGHTS_FILE

    def read(self, files: Files) -> Reading:
        settings = files.settings(CONFIG_FILE)
        kind = settings.get("trainer.dict_class", str)
        settings.expect("trainer.dict_class", *_CLASSES)
        for name, key in (("d_in", "activation_dim"), ("d_sae", "dict_size")):
            size = settings.get(f"trainer.{key}", int, None)
            if size is not None:
                files.sizes[name] = size
        weights = files.tensors(WEIGHTS_FILE)
        architecture, tensors = _CLASSES[kind](weights)
        values: dict[str, Any] = {
            "architecture": architecture,
            **files.sizes,
            "dtype": "float32",
            "apply_b_dec_to_input": kind not in ("AutoEncoderNew", "JumpReluAutoEncoder"),
            "model_name": settings.get("trainer.lm_name", str, "").split("/")[-1] or None,
            "hook_name": _hook(settings),
            "context_size": settings.get("buffer.ctx_len", int, None),
            "dataset_path": "monology/pile-uncopyrighted",
        }
        if architecture == "topk":
            values["k"] = _k(settings, weights)
        weights.drop("k", "threshold", "group_sizes")
        weights.finish()
        return Reading(values, tensors, WEIGHTS_FILE, CONFIG_FILE)


def _hook(settings: Settings) -> str | None:
    settings.expect("buffer.io", "in", "out")  # a transcoder would have both
    layer = settings.get("trainer.layer", int, None)
    # Trainers that do not record it read the residual stream.
    submodule = settings.get("trainer.submodule_name", str, "resid_post")
    hook = next((hook for name, hook in _SUBMODULES if re.fullmatch(name, submodule)), None)
    if settings.get("buffer.io", str, "out") == "in":
        hook = "hook_resid_pre" if hook == "hook_resid_post" else None
    return None if layer is None or hook is None else f"blocks.{layer}.{hook}"


def _k(settings: Settings, weights: TensorFile) -> int:
    if "k" not in weights:
        return settings.get("trainer.k", int)
    k: int = weights.take_value("k", int)
    settings.expect("trainer.k", k)
    return k


def _linear(weights: TensorFile, b_dec: str) -> dict[str, Tensor]:
    return {
        "W_enc": weights.take("encoder.weight", "d_sae", "d_in").mT,
        "W_dec": row_major(weights.take("decoder.weight", "d_in", "d_sae")),
        "b_dec": weights.take(b_dec, "d_in"),
    }


def _auto_encoder(weights: TensorFile) -> tuple[str, dict[str, Tensor]]:
    tensors = _linear(weights, "bias")
    return "standard", {**tensors, "b_enc": weights.take("encoder.bias", "d_sae")}


def _auto_encoder_new(weights: TensorFile) -> tuple[str, dict[str, Tensor]]:
    tensors = _linear(weights, "decoder.bias")
    return "standard", {**tensors, "b_enc": weights.take("encoder.bias", "d_sae")}


def _gated(weights: TensorFile) -> tuple[str, dict[str, Tensor]]:
    return "gated", {
        **_linear(weights, "decoder_bias"),
        "b_gate": weights.take("gate_bias", "d_sae"),
        "b_mag": weights.take("mag_bias", "d_sae"),
        "r_mag": weights.take("r_mag", "d_sae"),
    }


def _top_k(weights: TensorFile) -> tuple[str, dict[str, Tensor]]:
    tensors = _linear(weights, "b_dec")
    return "topk", {**tensors, "b_enc": weights.take("encoder.bias", "d_sae")}


def _batch_top_k(weights: TensorFile) -> tuple[str, dict[str, Tensor]]:
    _, tensors = _top_k(weights)
    return "jumprelu", {**tensors, "threshold": _one_threshold(weights)}


def _parameters(weights: TensorFile) -> dict[str, Tensor]:
    return {
        "W_enc": weights.take("W_enc", "d_in", "d_sae"),
        "W_dec": weights.take("W_dec", "d_sae", "d_in"),
        "b_enc": weights.take("b_enc", "d_sae"),
        "b_dec": weights.take("b_dec", "d_in"),
    }


def _matryoshka(weights: TensorFile) -> tuple[str, dict[str, Tensor]]:
    return "jumprelu", {**_parameters(weights), "threshold": _one_threshold(weights)}


def _jump_relu(weights: TensorFile) -> tuple[str, dict[str, Tensor]]:
    tensors = _parameters(weights)
    return "jumprelu", {**tensors, "threshold": weights.take("threshold", "d_sae")}


def _one_threshold(weights: TensorFile) -> Tensor:
    return weights.take("threshold").expand(weights.sizes["d_sae"]).contiguous()


_CLASSES: Final[Mapping[str, Callable[[TensorFile], tuple[str, dict[str, Tensor]]]]] = {
    "AutoEncoder": _auto_encoder,
    "AutoEncoderNew": _auto_encoder_new,
    "GatedAutoEncoder": _gated,
    "AutoEncoderTopK": _top_k,
    "BatchTopKSAE": _batch_top_k,
    "MatryoshkaBatchTopKSAE": _matryoshka,
    "JumpReluAutoEncoder": _jump_relu,
}
