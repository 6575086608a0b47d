"""The peer's side of the losses: ``python sae_lens_losses.py FOLDER``.

Reads ``cases.json``, ``x.safetensors`` and the weights ``N.safetensors``, and writes the loss of
one step and its gradients to ``N-answers.safetensors``.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from sae_lens.registry import get_sae_training_class
from sae_lens.saes.sae import TrainStepInput
from safetensors.torch import load_file, save_file


def answer(case: dict[str, Any], x: torch.Tensor, weights: dict[str, torch.Tensor]) -> Any:
    """Loss and gradients of one training step."""
    name, coefficient = case.pop("name"), case.pop("coefficient")
    sae_class, config_class = get_sae_training_class(name.split(",")[0].split()[0])
    if "k" in case:
        case.setdefault("rescale_acts_by_decoder_norm", False)
    sae = sae_class(config_class(**case, dtype="float64", device="cpu"))
    with torch.no_grad():
        for key, parameter in sae.named_parameters():
            parameter.copy_(weights[key])
    step = TrainStepInput(
        sae_in=x,
        dead_neuron_mask=None,
        coefficients={"l1": coefficient, "l0": coefficient},
        n_training_steps=0,
        is_logging_step=False,
    )
    loss = sae.training_forward_pass(step).loss
    loss.backward()
    gradients = {k: p.grad.double().contiguous() for k, p in sae.named_parameters()}
    return {"loss": loss.detach(), **gradients}


def main() -> None:
    folder = Path(sys.argv[1])
    warnings.simplefilter("ignore")
    x = load_file(folder / "x.safetensors")["x"]
    for i, case in enumerate(json.loads((folder / "cases.json").read_text())):
        weights = load_file(folder / f"{i}.safetensors")
        save_file(answer(case, x, weights), folder / f"{i}-answers.safetensors")


if __name__ == "__main__":
    main()
