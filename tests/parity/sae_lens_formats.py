"""The peer's side of ``formats``: foreign files through sae-lens' own loaders.

``python sae_lens_formats.py FOLDER`` reads ``cases.json`` and ``x.safetensors``; each case has a
folder that stands for a Hugging Face repository. It writes ``answers/CASE.safetensors`` and
``answers.json``: the configuration of each, or why it does not load.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import EntryNotFoundError
from sae_lens import SAE
from sae_lens.loading import pretrained_sae_loaders as loaders
from safetensors import safe_open
from safetensors.torch import load_file, save_file


def serve(root: Path) -> None:
    """Let a folder answer what sae-lens asks the Hugging Face Hub for."""

    def download(repo_id: str, filename: str, subfolder: str | None = None, **_: Any) -> str:
        path = root / (subfolder or "") / filename
        if not path.exists():
            raise EntryNotFoundError(f"{repo_id} has no {filename}")
        return str(path)

    def shapes(_repo_id: str, filename: str) -> dict[str, list[int]]:
        with safe_open(root / filename, framework="pt") as file:
            return {key: list(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118

    loaders.hf_hub_download = download
    loaders.get_safetensors_tensor_shapes = shapes


def load(case: dict[str, Any]) -> tuple[SAE, dict[str, Any]]:
    """What `SAE.from_pretrained` does, for a release that its directory does not have."""
    serve(Path(case["root"]))
    overrides = {**case["overrides"], "device": "cpu", "dtype": "float32"}
    loader = loaders.NAMED_PRETRAINED_SAE_LOADERS[case["loader"]]
    cfg_dict, state, _ = loader(case["repo"], case["path"], "cpu", False, overrides)
    cfg_dict = loaders.handle_config_defaulting(cfg_dict)
    cfg = SAE.get_sae_config_class_for_architecture(cfg_dict["architecture"]).from_dict(cfg_dict)
    sae = SAE.get_sae_class_for_architecture(cfg.architecture())(cfg)
    sae.process_state_dict_for_loading(state)
    sae.load_state_dict(state)
    factor = case["norm_scaling_factor"]
    if cfg_dict.get("normalize_activations") == "expected_average_only_in" and factor is not None:
        sae.fold_activation_norm_scaling_factor(factor)
    return sae, sae.cfg.to_dict()


@torch.no_grad()
def answer(case: dict[str, Any], x: torch.Tensor, folder: Path) -> dict[str, Any]:
    try:
        sae, cfg = load(case)
        heads = sae.cfg.reshape_activations == "hook_z"
        inputs = x.unflatten(-1, (2, -1)) if heads else x
        acts, forward = sae.encode(inputs), sae(inputs)
        answers = {"acts": acts, "forward": forward.flatten(-2) if heads else forward}
    except Exception as error:  # what comes of it is the answer
        return {"error": f"{type(error).__name__}: {error}"}
    answers = {key: tensor.contiguous() for key, tensor in answers.items()}
    save_file(answers, folder / "answers" / f"{case['name']}.safetensors")
    metadata = {key: value for key, value in cfg["metadata"].items() if value is not None}
    return {"config": {**cfg, "metadata": metadata}}


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    folder = Path(sys.argv[1])
    (folder / "answers").mkdir()
    x = load_file(folder / "x.safetensors")["x"]
    cases = json.loads((folder / "cases.json").read_text())
    answers = {case["name"]: answer(case, x, folder) for case in cases}
    (folder / "answers.json").write_text(json.dumps(answers, default=str))


if __name__ == "__main__":
    main()
