"""The peer's side of ``differences``: what sae-lens does where saekit does something else.

``python sae_lens_differences.py FOLDER`` writes ``answers.json``: by name, what came of it.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from exchange import fill
from sae_lens import SAE
from safetensors.torch import load_file, save_file

BASE = {"d_in": 8, "d_sae": 24, "dtype": "float32", "device": "cpu"}
CASES: dict[str, Callable[[Path], object]] = {}


def case(function: Callable[[Path], object]) -> Callable[[Path], object]:
    CASES[function.__name__] = function
    return function


def make(architecture: str = "standard", **keys: Any) -> SAE[Any]:
    sae = SAE.from_dict({**BASE, "architecture": architecture, "metadata": {}, **keys})
    fill(sae.named_parameters(), architecture, architecture)
    return sae


def folder_with(path: Path, sae: SAE[Any], **changes: Any) -> Path:
    """Its folder, with keys of the configuration changed."""
    sae.save_model(path)
    cfg = json.loads((path / "cfg.json").read_text())
    (path / "cfg.json").write_text(json.dumps({**cfg, **changes}))
    return path


def edit_weights(path: Path, **tensors: torch.Tensor | None) -> None:
    weights = {**load_file(path / "sae_weights.safetensors"), **tensors}
    kept = {name: tensor for name, tensor in weights.items() if tensor is not None}
    save_file(kept, path / "sae_weights.safetensors")


@case
def decode_twice(_: Path) -> object:
    sae = make(normalize_activations="layer_norm")
    acts = sae.encode(torch.randn(2, 8))
    sae.decode(acts)
    return sae.decode(acts).shape


@case
def decode_of_the_encode_before(_: Path) -> object:
    sae = make(normalize_activations="layer_norm")
    a, b = torch.randn(2, 8), 10 * torch.randn(2, 8)
    expected = sae(a)
    acts = sae.encode(a)
    sae.encode(b)
    return torch.allclose(sae.decode(acts), expected, rtol=1e-3)


@case
def row_of_zeros(_: Path) -> object:
    out = make(normalize_activations="constant_norm_rescale")(torch.zeros(1, 8))
    return bool(out.isfinite().all())


@case
def unfolded_whitening(path: Path) -> object:
    folder_with(path, make(), normalize_activations="covariance_whitening")
    return SAE.load_from_disk(path)(torch.ones(1, 8)).shape


@case
def scaling_factor(path: Path) -> object:
    folder_with(path, make(), finetuning_scaling_factor=True)
    edit_weights(path, scaling_factor=torch.full((24,), 2.0))
    return SAE.load_from_disk(path).cfg.architecture()


@case
def log_threshold(path: Path) -> object:
    folder_with(path, make("jumprelu"))
    edit_weights(path, threshold=None, log_threshold=torch.zeros(24))
    return SAE.load_from_disk(path).cfg.architecture()


@case
def topk_above_d_sae(_: Path) -> object:
    return make("topk", k=25).cfg.k


@case
def skip_in_another_dtype(_: Path) -> object:
    sae = make("skip_transcoder", d_out=8, apply_b_dec_to_input=False, dtype="bfloat16")
    return sae(torch.ones(1, 8)).dtype


@case
def heads_of_a_transcoder(_: Path) -> object:
    keys = {"d_out": 8, "apply_b_dec_to_input": False, "reshape_activations": "hook_z"}
    return make("transcoder", **keys)(torch.ones(1, 8)).shape


@case
def flat_heads(_: Path) -> object:
    sae = make(reshape_activations="hook_z")
    return sae.encode(torch.ones(3, 8)).shape


@case
def not_finite(path: Path) -> object:
    folder_with(path, make())
    edit_weights(path, b_enc=torch.full((24,), torch.nan))
    return bool(SAE.load_from_disk(path)(torch.ones(1, 8)).isfinite().all())


@case
def unpacked(path: Path) -> object:
    folder_with(path, make())
    save_file({"sparsity": torch.zeros(24)}, path / "sparsity.safetensors")
    _, _, sparsity = SAE.load_from_disk(path)
    return sparsity is not None


def main() -> None:
    folder = Path(sys.argv[1])
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_grad_enabled(False)
    answers = {}
    for name, function in CASES.items():
        try:
            answers[name] = str(function(folder / name))
        except Exception as error:  # that is an answer too
            answers[name] = f"{type(error).__name__}: {error}"
    (folder / "answers.json").write_text(json.dumps(answers, indent=1))


if __name__ == "__main__":
    main()
