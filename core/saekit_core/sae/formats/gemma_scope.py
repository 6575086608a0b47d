"""Gemma Scope (Lieberum et al. 2024): SAEs and transcoders of Gemma 2 in ``params.npz``.

The arrays have our names and shapes, with a small w in older files. A folder lies at
``google/gemma-scope-{2b,9b,27b}-{pt,it}-{res,mlp,att,transcoders}/layer_N/width_W/average_l0_L``,
and nothing else tells model and hook point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor

from saekit_core.sae.formats.files import Files
from saekit_core.sae.formats.format import FolderFormat, Reading
from saekit_core.sae.formats.place import Place
from saekit_core.sae.formats.tensor_file import TensorFile, widened

PARAMS_FILE: Final = "params.npz"
_REPO: Final = r"gemma-scope-(?P<size>2b|9b|27b)-(?P<kind>pt|it)-(?P<site>res|mlp|att|transcoders)"
_SITES: Final = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z"}
_COMMON: Final = {
    "dtype": "float32",
    "apply_b_dec_to_input": False,
    "dataset_path": "monology/pile-uncopyrighted",
    "context_size": 1024,
}


@dataclass(frozen=True)
class GemmaScope(FolderFormat):
    """SAEs: JumpReLU, `b_dec` not subtracted."""

    name: str = "gemma_scope"
    required: tuple[str, ...] = (PARAMS_FILE,)

    def claims(self, place: Place) -> bool:
        return not _transcoders(place)

    def facts(self, place: Place) -> dict[str, Any]:
        repo, layer = place.find(_REPO), place.find(r"layer_(\d+)")
        hook = place.hook()
        if repo and repo["site"] == "res" and place.find(r"/embedding(/|$)"):
            hook = "hook_embed"
        elif repo and layer and repo["site"] in _SITES:
            hook = f"blocks.{layer[1]}.{_SITES[repo['site']]}"
        return {"model_name": _model(place), "hook_name": hook}

    def read(self, files: Files) -> Reading:
        params = files.tensors(PARAMS_FILE)
        tensors = _take(params, d_out="d_in")
        if "scaling_factor" in params:
            tensors["scaling_factor"] = params.take("scaling_factor", "d_sae")
        params.finish()
        if files.facts.get("hook_name") == "hook_embed":
            # Trained on the embedding as it is stored; the hook point has it times √d_in.
            root = params.sizes["d_in"] ** 0.5
            tensors["W_enc"] = widened(tensors["W_enc"]) / root
            for name in ("W_dec", "b_dec"):
                tensors[name] = widened(tensors[name]) * root
        sizes = {"d_in": params.sizes["d_in"], "d_sae": params.sizes["d_sae"]}
        return Reading({"architecture": "jumprelu", **sizes, **_COMMON}, tensors, PARAMS_FILE)


@dataclass(frozen=True)
class GemmaScopeTranscoder(FolderFormat):
    """Transcoders: from the normalised input of an MLP, before the gain, to its output."""

    name: str = "gemma_scope_transcoder"
    required: tuple[str, ...] = (PARAMS_FILE,)

    def claims(self, place: Place) -> bool:
        return _transcoders(place)

    def facts(self, place: Place) -> dict[str, Any]:
        layer = place.find(r"layer_(\d+)")
        hooks = {"hook_name": place.hook(), "hook_name_out": None}
        if place.find(_REPO) and layer:
            hooks = {
                "hook_name": f"blocks.{layer[1]}.ln2.hook_normalized",
                "hook_name_out": f"blocks.{layer[1]}.hook_mlp_out",
            }
        return {"model_name": _model(place), **hooks}

    def read(self, files: Files) -> Reading:
        params = files.tensors(PARAMS_FILE)
        tensors = _take(params, d_out="d_out")
        params.finish()
        values = {"architecture": "jumprelu_transcoder", **params.sizes, **_COMMON}
        return Reading(values, tensors, PARAMS_FILE)


def _transcoders(place: Place) -> bool:
    """Whether the repository is that of the transcoders, whose arrays have the same names."""
    repo = place.find(_REPO)
    return repo is not None and repo["site"] == "transcoders"


def _model(place: Place) -> str | None:
    found = place.find(_REPO)
    if found is None:
        return None
    return f"gemma-2-{found['size']}" + ("-it" if found["kind"] == "it" else "")


def _take(params: TensorFile, *, d_out: str) -> dict[str, Tensor]:
    def matrix(name: str, *shape: str) -> Tensor:
        return params.take(name.lower() if name.lower() in params else name, *shape)

    return {
        "W_enc": matrix("W_enc", "d_in", "d_sae"),
        "W_dec": matrix("W_dec", "d_sae", d_out),
        "b_enc": params.take("b_enc", "d_sae"),
        "b_dec": params.take("b_dec", d_out),
        "threshold": params.take("threshold", "d_sae"),
    }
