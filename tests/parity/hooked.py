"""SAEs spliced into a model: `run_with_saes`, its caches and its options, on the same weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file
from tests.parity.peer import Peer
from tests.parity.report import Section
from tests.parity.runs import (
    INCOMPLETE,
    MODELS,
    SAES,
    TOKENS,
    TOLERANCE,
    Case,
    answer,
    build_models,
    build_sae,
    cases,
    compare,
    load_model,
)
from torch import Tensor
from transformers.utils import logging as transformers_logging

from saekit_core.lm.errors import LMError
from saekit_core.sae import SAE, SAEConfig

SCRIPT: Final = "sae_lens_hooked.py"
GOLDEN: Final = Path(__file__).parents[1] / "core" / "lm" / "golden" / "hooked.safetensors"
DIFFERENT: Final = tuple(Case("gpt2", (name,)) for name in INCOMPLETE)
"""Runs that the two answer differently, on purpose."""


def run(peer: Peer, folder: Path) -> list[Section]:
    """Every run on both sides, and where they differ on purpose."""
    transformers_logging.disable_progress_bar()
    theirs = _ask(peer, folder)
    rows, failures = [], []
    for case in cases():
        ours, expected = answer(case, folder / "models"), theirs[case.name]
        errors = compare(ours, expected)
        worst = max(errors, key=lambda key: errors[key], default="")
        problems = [f"{key} is off by {e:.1e}" for key, e in errors.items() if not e <= TOLERANCE]
        failures += [f"{case.name}: {problem}" for problem in problems]
        splices = sum(".hook_sae_" in key for key in errors)
        rows.append([case.name, str(splices), f"{errors['logits']:.0e}", f"{errors[worst]:.0e}"])
    text = (
        "Logits and caches (`hook_sae_input`, `_acts_pre`, `_acts_post`, `_recons`, `_error`, "
        "`_output`, and what comes behind) of a tiny model there as a HookedTransformer, "
        f"here on TransformerBridge; errors over the largest value, at most {TOLERANCE:g}."
    )
    columns = ("run", "splice entries", "logits off by", "worst entry off by")
    spliced = Section("SAEs in a run", text, columns, rows, failures)
    return [spliced, _differences(json.loads((folder / "differences.json").read_text()), folder)]


def write_golden(peer: Peer, folder: Path) -> None:
    """Renew the golden file of `tests/core/lm/test_hooked_golden.py`."""
    answers = _ask(peer, folder)
    tensors = {f"weights/{k}": t for k, t in seeded(folder / "models").items()}
    for case in golden_cases():
        kept = at_golden_positions(answers[case.name])
        tensors |= {f"{case.name}/{key}": tensor for key, tensor in kept.items()}
    GOLDEN.parent.mkdir(exist_ok=True)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, GOLDEN)
    GOLDEN.chmod(0o644)


def golden_cases() -> list[Case]:
    """Runs that have something of every other: several SAEs, or an option."""
    found = cases()
    return [c for c in found if len(c.saes) != 1 or c.exclude_special_tokens or c.ablate]


def at_golden_positions(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The first and the last position of the first prompt, which keeps the file small."""
    return {key: tensor[:1, [0, -1]] for key, tensor in found.items()}


def seeded(models: Path) -> dict[str, Tensor]:
    """A sample of the seeded weights: what golden answers belong to."""
    sample = {name: build_sae(name).W_dec[:1] for name in SAES}
    for name in MODELS:
        weights = load_file(models / name / "model.safetensors")
        sample[name] = weights[min(weights)].reshape(-1)[:8]
    return {name: tensor.detach().clone() for name, tensor in sample.items()}


def _ask(peer: Peer, folder: Path) -> dict[str, dict[str, Tensor]]:
    build_models(folder / "models")
    for model in MODELS:
        for name in SAES:
            build_sae(name).save_model(folder / "saes" / f"{model}.{name}")
    asked = {
        case.name: {**asdict(case), "saes": [f"{case.model}.{name}" for name in case.saes]}
        for case in (*cases(), *DIFFERENT)
    }
    (folder / "cases.json").write_text(json.dumps({"tokens": TOKENS, "cases": asked}))
    peer.run(SCRIPT, folder)
    return {name: load_file(folder / "answers" / f"{name}.safetensors") for name in asked}


def _differences(theirs: Mapping[str, str], folder: Path) -> Section:
    claims = [
        (
            "a hook of one's own at a hook point, after an SAE came and went there",
            "is gone",
            theirs["own_hooks"] == "0",
            "still runs",
            _own_hooks_survive(folder / "models"),
        ),
        (
            "an SAE whose hook point the model does not have",
            "is skipped with a warning",
            theirs["missing_hook_point"] == "0",
            "UnknownHookPointError, with the nearest names",
            _missing_hook_point_raises(folder / "models"),
        ),
        (
            "the cache's entry of the hook point itself, with an SAE there",
            "is missing",
            theirs["cached_at"] == "False",
            "is what goes on: `hook_sae_output`",
            _cached_at(folder / "models", "blocks.1.hook_resid_pre"),
        ),
        (
            "a skip transcoder, and a temporal SAE, in a run",
            "go without the skip, and without what the context predicts",
            all(_left_out(case, folder) for case in DIFFERENT),
            "are what `sae(x)` gives",
            all(_whole(case, folder) for case in DIFFERENT),
        ),
    ]
    failures = []
    rows: list[Sequence[str]] = []
    for what, there, true_there, here, true_here in claims:
        rows.append([what, there, here])
        failures += [f"{what}: not so there"] * (not true_there)
        failures += [f"{what}: not so here"] * (not true_here)
    text = "Both columns are claims that the command checks."
    columns = ("what", "sae-lens", "saekit")
    return Section("What differs on purpose in a run", text, columns, rows, failures)


def _left_out(case: Case, folder: Path) -> bool:
    theirs = load_file(folder / "answers" / f"{case.name}.safetensors")
    output, recons = f"{_place(case)}.hook_sae_output", f"{_place(case)}.hook_sae_recons"
    return torch.equal(theirs[output], theirs[recons])


def _whole(case: Case, folder: Path) -> bool:
    theirs = load_file(folder / "answers" / f"{case.name}.safetensors")
    ours = answer(case, folder / "models")
    whole = build_sae(case.saes[0])(theirs[f"{_place(case)}.hook_sae_input"])
    error = float((ours[f"{_place(case)}.hook_sae_output"] - whole).abs().max())
    return error <= TOLERANCE * float(whole.abs().max())


def _place(case: Case) -> str:
    """Where the SAE of a case writes."""
    metadata = build_sae(case.saes[0]).cfg.metadata
    return str(metadata.hook_name_out or metadata.hook_name)


def _cached_at(models: Path, entry: str) -> bool:
    model = load_model(models / "gpt2", False)
    _, cached = model.run_with_cache_with_saes(torch.tensor(TOKENS), saes=[build_sae("resid")])
    return torch.equal(cached[entry], cached[f"{entry}.hook_sae_output"])


def _own_hooks_survive(models: Path) -> bool:
    model, fired = load_model(models / "gpt2", False), list[str]()
    point = model.hook_dict["blocks.1.hook_resid_pre"]
    point.add_hook(lambda _, hook: fired.append(hook.name), is_permanent=True)
    model.add_sae(build_sae("resid"))
    model.reset_saes()
    model(torch.tensor(TOKENS))
    model.reset_hooks(including_permanent=True)
    return len(fired) == 1


def _missing_hook_point_raises(models: Path) -> bool:
    sae = build_sae("resid")
    metadata = {"hook_name": "blocks.1.hook_nowhere"}
    cfg = SAEConfig.from_dict({**sae.cfg.to_dict(), "metadata": metadata})
    try:
        load_model(models / "gpt2", False).add_sae(SAE.from_state(cfg, sae.weights()))
    except LMError as error:
        return type(error).__name__ == "UnknownHookPointError"
    return False
