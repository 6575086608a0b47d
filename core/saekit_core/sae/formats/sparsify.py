"""SAEs and transcoders of EleutherAI's sparsify: ``cfg.json`` and ``sae.safetensors``.

From its ``sparse_coder.py``: ``encoder.weight`` is [num_latents, d_in], and so is ``W_dec``, which
therefore is our W_dec as it stands; `b_dec` is subtracted from the input unless it transcodes;
the k largest pre-activations are kept behind a ReLU (before 2025, with ``signed``, by magnitude and
without one); a skip connection adds x·W_skipᵀ. SAELens transposes ``W_dec`` and takes
``normalize_decoder`` to mean that `b_dec` is not subtracted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from saekit_core.sae.dtypes import dtype_name
from saekit_core.sae.formats.files import Files
from saekit_core.sae.formats.format import FolderFormat, Reading
from saekit_core.sae.formats.place import Place
from saekit_core.sae.layout import CFG_FILE

WEIGHTS_FILE: Final = "sae.safetensors"
_RUN_FILE: Final = "config.json"
_HOOKPOINT: Final = re.compile(r"(?:.*\.)?(?:layers|h|blocks)[._](\d+)(?:\.(\w+))?")
_OUTPUTS: Final = {
    None: "hook_resid_post",
    "mlp": "mlp.hook_out",
    "attention": "attn.hook_out",
    "attn": "attn.hook_out",
    "self_attn": "attn.hook_out",
}


@dataclass(frozen=True)
class Sparsify(FolderFormat):
    """``cfg.json`` and ``sae.safetensors``; the folder is named after the module that it reads."""

    name: str = "sparsify"
    required: tuple[str, ...] = (CFG_FILE, WEIGHTS_FILE)
    mark: str = WEIGHTS_FILE

    def facts(self, place: Place) -> dict[str, Any]:
        run = _run_config(place)
        module = place.name.rsplit("/", 1)[-1]
        return {
            "model_name": run.get("model"),
            "dataset_path": run.get("dataset"),
            "context_size": run.get("ctx_len"),
            "hook_name": place.hook(),
            "module": module if _hooks(module, transcodes=False)[0] else None,
        }

    def read(self, files: Files) -> Reading:
        settings = files.settings(CFG_FILE)
        settings.expect("activation", "topk")  # groupmax keeps the largest of each of k groups
        files.sizes["d_in"] = d_in = settings.get("d_in", int)
        files.sizes["d_sae"] = settings.get("num_latents", int, 0) or d_in * settings.get(
            "expansion_factor", int
        )
        transcodes = settings.get("transcode", bool, False)
        signed = settings.get("signed", bool, False)
        skip = settings.get("skip_connection", bool, False)
        if transcodes and signed:
            raise settings.error("signed", "not supported for a transcoder")
        if skip and not transcodes:
            raise settings.error("skip_connection", "not supported without transcode")
        weights = files.tensors(WEIGHTS_FILE)
        W_enc = weights.take("encoder.weight", "d_sae", "d_in").mT
        tensors = {
            "W_enc": W_enc,
            "W_dec": weights.take("W_dec", "d_sae", "d_in"),
            "b_enc": weights.take("encoder.bias", "d_sae"),
            "b_dec": weights.take("b_dec", "d_in"),
        }
        if skip:
            tensors["W_skip"] = weights.take("W_skip", "d_in", "d_in")
        weights.finish()
        if transcodes:
            architecture = "topk_skip_transcoder" if skip else "topk_transcoder"
        else:
            architecture = "abstopk" if signed else "topk"
        hook, hook_out = _hooks(files.facts.get("module") or "", transcodes=transcodes)
        values = {
            "architecture": architecture,
            **files.sizes,
            "k": settings.get("k", int),
            "dtype": dtype_name(W_enc.dtype),
            "apply_b_dec_to_input": not transcodes,
            "hook_name": hook,
            "hook_name_out": hook_out,
            **({"d_out": d_in} if transcodes else {}),
        }
        return Reading(values, tensors, WEIGHTS_FILE, CFG_FILE)


def _run_config(place: Place) -> Mapping[str, Any]:
    """What the run that the SAE is from recorded beside its folder; it determines no answer."""
    try:
        run = json.loads((place.folder.parent / _RUN_FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(run, Mapping):
        return {}
    kinds = {"model": str, "dataset": str, "ctx_len": int}
    return {key: run[key] for key, kind in kinds.items() if isinstance(run.get(key), kind)}


def _hooks(module: str, *, transcodes: bool) -> tuple[str | None, str | None]:
    """Hook points of a module that is named as the Hugging Face model names it."""
    if module == "embed_tokens" and not transcodes:
        return "hook_embed", None
    found = _HOOKPOINT.fullmatch(module)
    if found is None or found[2] not in _OUTPUTS:
        return None, None
    block, part = f"blocks.{found[1]}", found[2]
    output = f"{block}.{_OUTPUTS[part]}"
    if not transcodes:
        return output, None
    reads = {None: "hook_resid_pre", "mlp": "mlp.hook_in"}.get(part, "attn.hook_in")
    return f"{block}.{reads}", output
