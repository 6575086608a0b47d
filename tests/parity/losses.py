"""Losses and gradients of a training step, there and here, from the same weights and rows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from tests.parity.peer import Peer
from tests.parity.report import Section
from torch import Tensor

from saekit_trainer.architectures import TrainingSAE, TrainingSAEConfig, new_training_sae

SCRIPT: Final = "sae_lens_losses.py"
TOLERANCE: Final = 1e-6
"""Relative, in float64; sae-lens keeps thresholds in float32."""
D_IN, D_SAE, ROWS = 12, 40, 64
_JUMP: Final = {"jumprelu_bandwidth": 0.5, "jumprelu_init_threshold": 0.4}
CASES: Final[dict[str, dict[str, Any]]] = {
    "standard": {},
    "standard, lp_norm 2": {"lp_norm": 2.0},
    "gated": {},
    "topk": {"k": 5},
    "topk rescaled": {"k": 5, "rescale_acts_by_decoder_norm": True},
    "abstopk": {"k": 5},
    "batchtopk": {"k": 3.5},
    "batchtopk rescaled": {"k": 5, "rescale_acts_by_decoder_norm": True},
    "matryoshka_batchtopk": {"k": 6, "matryoshka_widths": (5, 20, 40)},
    "jumprelu": _JUMP,
    "jumprelu, tanh": {**_JUMP, "jumprelu_sparsity_loss_mode": "tanh"},
    "jumprelu, quadratic": {
        **_JUMP,
        "jumprelu_sparsity_loss_mode": "quadratic",
        "target_l0": 4.0,
    },
    "matching_pursuit": {"max_iterations": 6, "residual_threshold": 0.9},
}
"""By a name that begins with the architecture: what differs from the default."""
COEFFICIENT: Final = 0.7
OTHERWISE: Final = {
    "gated": (
        {"W_dec", "b_dec"},
        "the auxiliary loss does not reach the decoder, as published; there it does",
    ),
}
"""Gradients that differ on purpose, and why."""


def run(peer: Peer, folder: Path) -> list[Section]:
    """The loss of one step and its gradients, for every architecture that sae-lens trains."""
    saes = {name: _random_sae(name) for name in CASES}
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(ROWS, D_IN, generator=generator, dtype=torch.float64)
    save_file({"x": x}, folder / "x.safetensors")
    for i, sae in enumerate(saes.values()):
        save_file(_their_weights(sae), folder / f"{i}.safetensors")
    questions = [
        {"name": name, "coefficient": COEFFICIENT, "d_in": D_IN, "d_sae": D_SAE, **options}
        for name, options in CASES.items()
    ]
    (folder / "cases.json").write_text(json.dumps(questions))
    peer.run(SCRIPT, folder)
    rows, failures = [], []
    for i, (name, sae) in enumerate(saes.items()):
        theirs = load_file(folder / f"{i}-answers.safetensors")
        loss = sae(x, x, sparsity=1.0).loss
        loss.backward()
        apart = _apart(loss.detach(), theirs.pop("loss"))
        ours = _their_gradients(sae)
        differ, why = OTHERWISE.get(name, (set(), ""))
        worst = max(_apart(ours[key], theirs[key]) for key in ours.keys() - differ)
        if not max(apart, worst) <= TOLERANCE or ours.keys() != theirs.keys():
            failures.append(f"{name}: loss off by {apart:.1e}, gradients by {worst:.1e}")
        note = f"but {', '.join(sorted(differ))}: {why}" if why else ""
        rows.append([name, f"{apart:.0e}", f"{worst:.0e}", note])
    text = (
        "The loss of one step without dead features, and its gradients, in float64; norm of the "
        f"difference over the norm, at most {TOLERANCE:g}. The auxiliary loss on dead features is "
        "another one here: it is divided by the variance of what it explains (Gao et al. 2024), "
        "so that its weight does not depend on the scale of the activations."
    )
    columns = ("architecture", "loss", "gradients", "")
    return [Section("Training losses", text, columns, rows, failures)]


def _random_sae(name: str) -> TrainingSAE:
    architecture = re.match(r"\w+", name)[0]
    config = TrainingSAEConfig(
        architecture,
        D_IN,
        D_SAE,
        sparsity_coefficient=COEFFICIENT,
        dtype=torch.float64,
        normalize_sae_decoder=architecture == "matching_pursuit",
        **CASES[name],
    )
    generator = torch.Generator().manual_seed(0)
    sae = new_training_sae(config, generator=generator)
    with torch.no_grad():
        for key, parameter in sae.named_parameters():
            if key == "threshold":  # as float32 has it
                parameter.copy_(parameter.float())
            elif architecture != "matching_pursuit" or key == "b_dec":
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_(0.3 * noise)
    return sae


def _their_weights(sae: TrainingSAE) -> dict[str, Tensor]:
    """The weights by sae-lens' names, those that its training classes keep."""
    return {
        _theirs(sae, key): p.detach().clone(memory_format=torch.contiguous_format)
        for key, p in sae.named_parameters()
    }


def _their_gradients(sae: TrainingSAE) -> dict[str, Tensor]:
    found = {}
    for key, parameter in sae.named_parameters():
        assert parameter.grad is not None
        found[_theirs(sae, key)] = parameter.grad
    return found


def _theirs(sae: TrainingSAE, name: str) -> str:
    return "b_gate" if name == "b_enc" and sae.config.architecture == "gated" else name


def _apart(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm().clamp_min(1e-12))
