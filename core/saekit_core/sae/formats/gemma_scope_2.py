"""Gemma Scope 2: SAEs and transcoders of Gemma 3 in ``config.json`` and ``params.safetensors``.

The layers of its cross-layer transcoders are a file each, ``params_layer_N.safetensors``, with a
decoder per layer they write to.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from saekit_core.sae.errors import SAEFormatError
from saekit_core.sae.formats.cross_layer import summed_decoders
from saekit_core.sae.formats.files import Files
from saekit_core.sae.formats.format import FolderFormat, Reading
from saekit_core.sae.formats.place import Place

PARAMS_FILE: Final = "params.safetensors"
CONFIG_FILE: Final = "config.json"

_HF_HOOKS: Final = (
    # What a hook point of the Hugging Face model is called in TransformerLens. The MLP's input is
    # behind the norm, which TransformerLens' own hook_mlp_in is not.
    (r"\.output", "hook_resid_post"),
    (r"\.self_attn\.o_proj\.input", "attn.hook_z"),
    (r"\.post_feedforward_layernorm\.output", "hook_mlp_out"),
    (r"\.pre_feedforward_layernorm\.output", "mlp.hook_in"),
)
_SITES: Final = {
    # Folder name → hook points, where there is no config.json.
    "transcoder": ("mlp.hook_in", "hook_mlp_out"),
    "clt": ("mlp.hook_in", "hook_mlp_out"),
    "resid_post": ("hook_resid_post", None),
    "attn_out": ("attn.hook_z", None),
    "mlp_out": ("hook_mlp_out", None),
}
_PATH: Final = (
    r"gemma-scope-2-(?P<size>\w+)-(?P<kind>pt|it)/(?:.*/)?"
    rf"(?P<site>{'|'.join(_SITES)})(?:_all)?/(?:[^/]+/)?[^/]*layer_(?P<layer>\d+)"
)


@dataclass(frozen=True)
class GemmaScope2(FolderFormat):
    """JumpReLU; transcoders may have an affine skip connection."""

    name: str = "gemma_scope_2"
    required: tuple[str, ...] = (PARAMS_FILE,)
    optional: tuple[str, ...] = (*FolderFormat.optional, CONFIG_FILE)

    def locate(self, path: str) -> tuple[str, str | None]:
        if "clt" not in path:
            return path, None
        folder, file = posixpath.split(path)
        return folder, file if file.endswith(".safetensors") else f"{file}.safetensors"

    def files(self, listing: Collection[str], file: str | None = None) -> tuple[str, ...]:
        if file in (None, PARAMS_FILE):
            return super().files(listing)
        if not re.fullmatch(r"params_layer_\d+\.safetensors", file) or file not in listing:
            return ()
        return tuple(sorted({file, *({CONFIG_FILE} & set(listing))}))

    def facts(self, place: Place) -> dict[str, Any]:
        path = place.find(_PATH)
        if path is None or (place.folder / CONFIG_FILE).exists():
            return {"hook_name": place.hook()}
        reads, writes = _SITES[path["site"]]
        return {
            "model_name": _model(f"gemma-3-{path['size']}-{path['kind']}"),
            "hook_name": f"blocks.{path['layer']}.{reads}",
            "hook_name_out": f"blocks.{path['layer']}.{writes}" if writes else None,
        }

    def read(self, files: Files) -> Reading:
        values: dict[str, Any] = {
            "dtype": "float32",
            "apply_b_dec_to_input": False,
            "dataset_path": "monology/pile-uncopyrighted",
            "context_size": 1024,
        }
        affine = False
        if CONFIG_FILE in files:
            config = files.settings(CONFIG_FILE)
            config.expect("architecture", "jump_relu")
            reads = config.get("hf_hook_point_in", str, None)
            writes = config.get("hf_hook_point_out", str, None)
            model = config.get("model_name", str, None)
            affine = config.get("affine_connection", bool, False)
            values |= {
                "model_name": _model(model) if model else None,
                "hook_name": _hook(reads),
                "hf_hook_name": reads,
            }
            if writes is not None and writes != reads:
                values |= {"hook_name_out": _hook(writes), "hf_hook_name_out": writes}
        params = files.tensors(files.file or PARAMS_FILE)
        transcodes = (values.get("hook_name_out") or files.facts.get("hook_name_out")) is not None
        d_out = "d_out" if transcodes else "d_in"
        tensors = {
            "W_enc": params.take("w_enc", "d_in", "d_sae"),
            "b_enc": params.take("b_enc", "d_sae"),
            "b_dec": params.take("b_dec", d_out),
            "threshold": params.take("threshold", "d_sae"),
        }
        if params.file == PARAMS_FILE:
            tensors["W_dec"] = params.take("w_dec", "d_sae", d_out)
        else:
            tensors["W_dec"] = summed_decoders(params.take("w_dec", "d_sae", "", d_out))
        skip = affine or "affine_skip_connection" in params
        if skip:
            if not transcodes:
                raise SAEFormatError(
                    f"{params.file}: affine_skip_connection: only transcoders have one, and "
                    f"neither {CONFIG_FILE} nor the path tells where this one writes",
                    field="affine_skip_connection",
                )
            tensors["W_skip"] = params.take("affine_skip_connection", "d_in", d_out).mT
        params.finish()
        kind = ("jumprelu_skip_transcoder" if skip else "jumprelu_transcoder", "jumprelu")
        values |= {"architecture": kind[0] if transcodes else kind[1], **params.sizes}
        return Reading(values, tensors, params.file)


def _hook(hf_hook: str | None) -> str | None:
    """``model.layers.5.output`` → ``blocks.5.hook_resid_post``; None for one not known here."""
    for pattern, hook in _HF_HOOKS:
        found = re.fullmatch(rf"(?:.*\.)?layers\.(\d+){pattern}", hf_hook or "")
        if found:
            return f"blocks.{found[1]}.{hook}"
    return None


def _model(name: str) -> str:
    """The model on Hugging Face that a configuration means."""
    name = name if "google" in name else f"google/{name}"
    name = name.replace("-v3", "-3")
    return name.replace("-pt", "") if "270m" in name else name  # which has no -pt there
