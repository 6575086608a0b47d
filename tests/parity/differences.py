"""Where saekit does something else than sae-lens, on purpose: both sides are asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from tests.parity.exchange import fill
from tests.parity.peer import Peer
from tests.parity.report import Section
from torch import Tensor

from saekit_core.sae import SAE, SAEConfig, read_sae_folder_owned
from saekit_core.sae.layout import CFG_FILE, SPARSITY_FILE, WEIGHTS_FILE

BASE: Final = {"d_in": 8, "d_sae": 24, "dtype": "float32"}


@dataclass(frozen=True)
class Difference:
    """One thing that the two do differently."""

    name: str
    """Of the case in ``sae_lens_differences.py``."""
    what: str
    there: str
    """What sae-lens does, in words."""
    there_says: str
    """How its answer begins, if the words are true."""
    here: str
    here_says: str
    case: Callable[[Path], object]


def run(peer: Peer, folder: Path) -> list[Section]:
    """Ask both sides, and hold their answers to what the table claims."""
    peer.run("sae_lens_differences.py", folder)
    theirs: dict[str, str] = json.loads((folder / "answers.json").read_text())
    rows, failures = [], []
    for difference in DIFFERENCES:
        where = folder / f"{difference.name}-here"
        for side, says, expected in (
            ("there", theirs[difference.name], difference.there_says),
            ("here", _answer(difference.case, where), difference.here_says),
        ):
            if not says.startswith(expected):
                failures.append(f"{difference.name}: {side} it is {says:.200}, not {expected}")
        rows.append([difference.what, difference.there, difference.here])
    text = "Both columns are claims that the command checks, on the same small SAEs."
    columns = ("what", "sae-lens", "saekit")
    return [Section("What differs on purpose", text, columns, rows, failures)]


@torch.no_grad()
def _answer(case: Callable[[Path], object], folder: Path) -> str:
    try:
        return str(case(folder))
    except Exception as error:  # an error is an answer too, and compared like one
        return f"{type(error).__name__}: {error}"


def _make(architecture: str = "standard", **keys: Any) -> SAE:
    cfg = SAEConfig.from_dict({**BASE, "architecture": architecture, "metadata": {}, **keys})
    sae = SAE.from_config(cfg).requires_grad_(False)
    fill(sae.named_parameters(), architecture, architecture)
    return sae


def _folder(path: Path, sae: SAE, **changes: Any) -> Path:
    sae.save_model(path)
    cfg = json.loads((path / CFG_FILE).read_text())
    (path / CFG_FILE).write_text(json.dumps({**cfg, **changes}))
    return path


def _edit_weights(path: Path, **tensors: Tensor | None) -> None:
    weights = {**load_file(path / WEIGHTS_FILE), **tensors}
    kept = {name: tensor for name, tensor in weights.items() if tensor is not None}
    save_file(kept, path / WEIGHTS_FILE)


def _decode_twice(_: Path) -> object:
    sae = _make(normalize_activations="layer_norm")
    acts = sae.encode(torch.randn(2, 8))
    return torch.equal(sae.decode(acts), sae.decode(acts))


def _decode_of_the_encode_before(_: Path) -> object:
    sae = _make(normalize_activations="layer_norm")
    a, b = torch.randn(2, 8), 10 * torch.randn(2, 8)
    acts, state = sae.encode_with_state(a)
    sae.encode(b)
    return torch.equal(sae.decode(acts, state), sae(a))


def _row_of_zeros(_: Path) -> object:
    out = _make(normalize_activations="constant_norm_rescale")(torch.zeros(1, 8))
    return bool(out.isfinite().all())


def _unfolded_whitening(path: Path) -> object:
    _folder(path, _make(), normalize_activations="covariance_whitening")
    return SAE.load_from_disk(path)


def _scaling_factor(path: Path) -> object:
    sae = _make()
    _folder(path, sae, finetuning_scaling_factor=True)
    _edit_weights(path, scaling_factor=torch.full((24,), 2.0))
    acts = torch.rand(3, 24)
    return torch.allclose(SAE.load_from_disk(path).decode(acts), sae.decode(2 * acts))


def _log_threshold(path: Path) -> object:
    _folder(path, _make("jumprelu"))
    _edit_weights(path, threshold=None, log_threshold=torch.zeros(24))
    return bool((SAE.load_from_disk(path).threshold == 1).all())


def _topk_above_d_sae(_: Path) -> object:
    return _make("topk", k=25)


def _skip_in_another_dtype(_: Path) -> object:
    sae = _make("skip_transcoder", d_out=8, apply_b_dec_to_input=False, dtype="bfloat16")
    return sae(torch.ones(1, 8)).dtype


def _heads_of_a_transcoder(_: Path) -> object:
    keys = {"d_out": 8, "apply_b_dec_to_input": False, "reshape_activations": "hook_z"}
    return _make("transcoder", **keys)


def _flat_heads(_: Path) -> object:
    sae = _make(reshape_activations="hook_z")
    flat = torch.rand(3, 8)
    return torch.equal(sae.encode(flat), sae.encode(flat.view(3, 2, 4)))


def _not_finite(path: Path) -> object:
    _folder(path, _make())
    _edit_weights(path, b_enc=torch.full((24,), torch.nan))
    return read_sae_folder_owned(path)


def _unpacked(path: Path) -> object:
    _folder(path, _make())
    save_file({"sparsity": torch.zeros(24)}, path / SPARSITY_FILE)
    _, _, sparsity = SAE.load_from_disk(path)
    return sparsity is not None


DIFFERENCES: Final = (
    Difference(
        "decode_twice",
        "`decode` a second time after one `encode`, under `layer_norm` or `constant_norm_rescale`",
        "AttributeError: the first call deletes what it needs",
        "AttributeError",
        "the same again",
        "True",
        _decode_twice,
    ),
    Difference(
        "decode_of_the_encode_before",
        "`decode` after something else was encoded meanwhile",
        "undoes the normalisation of what was encoded last",
        "False",
        "so does `decode(acts)`; `decode(acts, state)` with the state of `encode_with_state` does "
        "not depend on the order",
        "True",
        _decode_of_the_encode_before,
    ),
    Difference(
        "row_of_zeros",
        "a row of zeros under `constant_norm_rescale`",
        "NaN",
        "False",
        "is left unscaled",
        "True",
        _row_of_zeros,
    ),
    Difference(
        "unfolded_whitening",
        "a folder whose `covariance_whitening` was not folded into its weights",
        "loads, and leaves the whitening out",
        "torch.Size",
        "refused, naming `normalize_activations`",
        "SAEFormatError: cfg.json: normalize_activations",
        _unfolded_whitening,
    ),
    Difference(
        "scaling_factor",
        "a `scaling_factor` that is not 1 everywhere (finetuned SAEs of versions 2 to 5)",
        "does not load",
        "RuntimeError",
        "is multiplied into the rows of `W_dec`",
        "True",
        _scaling_factor,
    ),
    Difference(
        "log_threshold",
        "a jumprelu folder that has `log_threshold` (versions 4 and 5)",
        "does not load",
        "RuntimeError",
        "θ = exp(log_threshold)",
        "True",
        _log_threshold,
    ),
    Difference(
        "topk_above_d_sae",
        "topk with k above d_sae",
        "is made, and fails when it encodes",
        "25",
        "refused, naming `k`",
        "SAEFormatError: k: 25",
        _topk_above_d_sae,
    ),
    Difference(
        "skip_in_another_dtype",
        "a 16-bit skip transcoder on float32 activations",
        "RuntimeError",
        "RuntimeError",
        "casts them, as for every other SAE",
        "torch.bfloat16",
        _skip_in_another_dtype,
    ),
    Difference(
        "heads_of_a_transcoder",
        "`reshape_activations` of a transcoder",
        "is ignored",
        "torch.Size",
        "refused, naming `reshape_activations`",
        "SAEFormatError: reshape_activations",
        _heads_of_a_transcoder,
    ),
    Difference(
        "flat_heads",
        "a `hook_z` SAE on activations whose heads are flattened already",
        "RuntimeError",
        "RuntimeError",
        "takes them",
        "True",
        _flat_heads,
    ),
    Difference(
        "not_finite",
        "weights with NaN or infinite values",
        "load",
        "False",
        "load in the library; the server refuses them, naming the tensor",
        "SAEFormatError: sae_weights.safetensors: b_enc",
        _not_finite,
    ),
    Difference(
        "unpacked",
        "`sae, cfg_dict, sparsity = SAE.load_from_disk(...)`",
        "sparsity is always None",
        "False",
        "sparsity is what the folder records",
        "True",
        _unpacked,
    ),
)
