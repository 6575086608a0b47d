"""SAEs that are one file of ``torch.save`` each, without a configuration.

Their files tell sizes and arithmetic; model, hook point and k stand in the names that their makers
gave them. Which of the formats it is, is told by the names of the tensors.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from torch import Tensor

from saekit_core.sae.dtypes import dtype_name
from saekit_core.sae.formats.files import Files
from saekit_core.sae.formats.format import FileFormat, Reading
from saekit_core.sae.formats.place import Place
from saekit_core.sae.formats.tensor_file import TensorFile, row_major

_SAE_L: Final = r"(?P<model>[\w.-]+)-SAE-l(?P<layer>\d+)\.pth?$"
_OPENAI: Final = r"(?P<location>[a-z_]+?)(?:_v\d\w*)?/autoencoders/(?P<layer>\d+)\.pt$"
_QWEN: Final = r"SAE-Res-(?P<model>Qwen[\w.-]+)-W\d+K-L0_(?P<k>\d+)(?:/|--|$)"
_QWEN_LAYER: Final = r"layer(?P<layer>\d+)\.sae\.pt$"
_VENDORS: Final = {"DeepSeek": "deepseek-ai", "Llama": "meta-llama"}
_LOCATIONS: Final = {
    "mlp_post_act": "mlp.hook_post",
    "resid_delta_attn": "hook_attn_out",
    "resid_delta_mlp": "hook_mlp_out",
    "resid_post_attn": "hook_resid_mid",
    "resid_post_mlp": "hook_resid_post",
}
"""Hook points of GPT-2 small by the names of openai/sparse_autoencoder's ``paths.py``."""


@dataclass(frozen=True)
class TorchFileFormat(FileFormat):
    """A format of this family; all of them read the same facts from a path."""

    tensors: frozenset[str] = frozenset()
    """Names by which its files are told from the others'."""

    def holds(self, keys: Collection[str]) -> bool:
        return self.tensors <= set(keys)

    def facts(self, place: Place) -> dict[str, Any]:
        named, openai = place.find(_SAE_L), place.find(_OPENAI)
        qwen, layer = place.find(_QWEN), place.find(_QWEN_LAYER)
        facts: dict[str, Any] = {"hook_name": place.hook()}
        if named:
            vendor = _VENDORS.get(named["model"].split("-")[0])
            facts["model_name"] = f"{vendor}/{named['model']}" if vendor else named["model"]
            facts["hook_name"] = f"blocks.{named['layer']}.hook_resid_post"
        elif openai and openai["location"] in _LOCATIONS:
            facts["model_name"] = "gpt2-small"
            facts["hook_name"] = f"blocks.{openai['layer']}.{_LOCATIONS[openai['location']]}"
        if qwen:
            facts |= {"model_name": f"Qwen/{qwen['model']}", "k": int(qwen["k"])}
        if layer:
            facts["hook_name"] = f"blocks.{layer['layer']}.hook_resid_post"
            facts["hf_hook_name"] = f"model.layers.{layer['layer']}"
        return facts


@dataclass(frozen=True)
class Goodfire(TorchFileFormat):
    """Goodfire's SAEs: ReLU, the decoder's bias not subtracted."""

    name: str = "goodfire"
    pattern: re.Pattern[str] = field(default=re.compile(r".+-SAE-l\d+\.pth?"), kw_only=True)
    tensors: frozenset[str] = frozenset({"encoder_linear.weight"})

    def read(self, files: Files) -> Reading:
        weights = files.tensors()
        tensors = _linear(weights, "encoder_linear", "decoder_linear")
        weights.finish()
        values = {**_relu(weights, "float32"), "dataset_path": "lmsys/lmsys-chat-1m"}
        return Reading(values, tensors, weights.file)


@dataclass(frozen=True)
class DeepSeekR1(TorchFileFormat):
    """The SAE of qresearch on DeepSeek-R1-Distill-Llama-8B: ReLU, bias not subtracted."""

    name: str = "deepseek_r1"
    pattern: re.Pattern[str] = field(default=re.compile(r".+-SAE-l\d+\.pth?"), kw_only=True)
    tensors: frozenset[str] = frozenset({"encoder.weight", "encoder.bias"})

    def read(self, files: Files) -> Reading:
        weights = files.tensors()
        tensors = _linear(weights, "encoder", "decoder")
        weights.finish()
        values = {
            **_relu(weights, dtype_name(tensors["W_enc"].dtype)),
            "dataset_path": "lmsys/lmsys-chat-1m",
            "context_size": 1024,
        }
        return Reading(values, tensors, weights.file)


@dataclass(frozen=True)
class QwenScope(TorchFileFormat):
    """Qwen Scope: top-k with ReLU, `b_dec` not subtracted; k is in the repository's name."""

    name: str = "qwen_scope"
    pattern: re.Pattern[str] = field(default=re.compile(r"layer\d+\.sae\.pt"), kw_only=True)
    tensors: frozenset[str] = frozenset({"W_enc"})

    def read(self, files: Files) -> Reading:
        weights = files.tensors()
        tensors = {
            "W_enc": weights.take("W_enc", "d_sae", "d_in").mT,
            "W_dec": row_major(weights.take("W_dec", "d_in", "d_sae")),
            "b_enc": weights.take("b_enc", "d_sae"),
            "b_dec": weights.take("b_dec", "d_in"),
        }
        weights.finish()
        values = {**_relu(weights, "float32"), "architecture": "topk", "context_size": 1024}
        return Reading(values, tensors, weights.file)


@dataclass(frozen=True)
class OpenAI(TorchFileFormat):
    """openai/sparse_autoencoder (Gao et al. 2024): ReLU, or top-k of layer-normed activations.

    Its ``model.py`` normalises if and only if the activation is TopK, and the standard deviation
    and its epsilon are those of our ``layer_norm``.
    """

    name: str = "openai"
    pattern: re.Pattern[str] = field(default=re.compile(r"\d+\.pt"), kw_only=True)
    tensors: frozenset[str] = frozenset({"latent_bias"})

    def read(self, files: Files) -> Reading:
        weights = files.tensors()
        W_enc = weights.take("encoder.weight", "d_sae", "d_in").mT
        tied = "decoder.linear.weight" in weights
        if tied:
            weights.drop("decoder.linear.weight")  # the encoder's weight again
        tensors = {
            "W_enc": W_enc,
            "W_dec": W_enc.mT
            if tied
            else row_major(weights.take("decoder.weight", "d_in", "d_sae")),
            "b_enc": weights.take("latent_bias", "d_sae"),
            "b_dec": weights.take("pre_bias", "d_in"),
        }
        activation = weights.take_value("activation", str, "ReLU")
        state = weights.take_value("activation_state_dict", Mapping, {})
        weights.drop("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")
        weights.finish()
        values: dict[str, Any] = {**weights.sizes, "dtype": "float32", "prepend_bos": None}
        if activation == "TopK":
            if state.get("postact_fn", "ReLU") != "ReLU":
                raise weights.error(
                    "activation_state_dict.postact_fn", f"{state['postact_fn']!r:.40}, not ReLU"
                )
            k = state.get("k")
            if not isinstance(k, int):
                raise weights.error("activation_state_dict.k", f"expected int, got {k!r:.40}")
            values |= {"architecture": "topk", "k": k, "normalize_activations": "layer_norm"}
        elif activation == "ReLU":
            values["architecture"] = "standard"
        else:
            raise weights.error("activation", f"{activation!r:.40} is none of ReLU, TopK")
        return Reading(values, tensors, weights.file)


def _linear(weights: TensorFile, encoder: str, decoder: str) -> dict[str, Tensor]:
    return {
        "W_enc": weights.take(f"{encoder}.weight", "d_sae", "d_in").mT,
        "W_dec": row_major(weights.take(f"{decoder}.weight", "d_in", "d_sae")),
        "b_enc": weights.take(f"{encoder}.bias", "d_sae"),
        "b_dec": weights.take(f"{decoder}.bias", "d_in"),
    }


def _relu(weights: TensorFile, dtype: str) -> dict[str, Any]:
    return {
        "architecture": "standard",
        **weights.sizes,
        "dtype": dtype,
        "apply_b_dec_to_input": False,
    }
