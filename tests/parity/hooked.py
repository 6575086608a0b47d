"""SAEs spliced into a model: `run_with_saes`, its caches and its options, on the same weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from tests.models import build_gpt2, build_llama
from tests.parity.exchange import fill
from tests.parity.peer import Peer
from tests.parity.report import Section
from torch import Tensor
from transformers.utils import logging as transformers_logging

from saekit_core.lm.errors import LMError
from saekit_core.lm.hooked import HookedSAETransformer
from saekit_core.sae import SAE, SAEConfig

SCRIPT: Final = "sae_lens_hooked.py"
TOLERANCE: Final = 1e-4
D: Final = 32
"""Width of the models of `tests.models`."""
D_SAE: Final = 48
TOKENS: Final = [[0, 17, 300, 5, 0, 261], [0, 40, 8, 120, 33, 9]]
"""0 is the beginning-of-sequence token."""
MODELS: Final = {"gpt2": build_gpt2, "llama": build_llama}
GOLDEN: Final = Path(__file__).parents[1] / "core" / "lm" / "golden" / "hooked.safetensors"

_TRANSCODER: Final = {
    "hook_name": "blocks.1.hook_resid_mid",
    "hook_name_out": "blocks.1.hook_mlp_out",
}
SAES: Final[Mapping[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    # name: (configuration, metadata)
    "resid": ({"architecture": "jumprelu"}, {"hook_name": "blocks.1.hook_resid_pre"}),
    "mlp": (
        {"architecture": "standard", "normalize_activations": "layer_norm"},
        {"hook_name": "blocks.0.hook_mlp_out"},
    ),
    "z": (
        {"architecture": "topk", "k": 9, "reshape_activations": "hook_z"},
        {"hook_name": "blocks.1.attn.hook_z"},
    ),
    "post": (
        {"architecture": "gated", "normalize_activations": "constant_norm_rescale"},
        {"hook_name": "blocks.2.hook_resid_post"},
    ),
    "transcoder": (
        {"architecture": "transcoder", "d_out": D, "apply_b_dec_to_input": False},
        _TRANSCODER,
    ),
    "jumprelu_transcoder": (
        {"architecture": "jumprelu_transcoder", "d_out": D, "apply_b_dec_to_input": False},
        _TRANSCODER,
    ),
    "skip_transcoder": (
        {"architecture": "skip_transcoder", "d_out": D, "apply_b_dec_to_input": False},
        _TRANSCODER,
    ),
}


@dataclass(frozen=True)
class Case:
    """One run of a model with SAEs."""

    model: str
    saes: tuple[str, ...] = ()
    use_error_term: bool = False
    exclude_special_tokens: tuple[int, ...] = ()
    ablate: tuple[str, int] | None = None
    """A hook point inside a splice, and the feature that a hook there sets to 0."""
    processed: bool = False
    """Whether TransformerLens folds norms and centres weights, as its `from_pretrained` does."""
    also: tuple[str, ...] = ("blocks.2.hook_mlp_out", "blocks.2.hook_resid_mid")
    """What else of the cache is compared."""

    @property
    def name(self) -> str:
        parts = [self.model, "+".join(self.saes) or "no SAE"]
        parts += ["error term"] * self.use_error_term + ["processed"] * self.processed
        parts += ["without BOS"] * bool(self.exclude_special_tokens)
        return " ".join([*parts, *(["ablated"] if self.ablate else [])])


def cases() -> list[Case]:
    """All runs that are compared."""
    found = []
    for model in MODELS:
        found += [Case(model), Case(model, processed=True)]
        several = (("mlp", "z", "resid", "post"), ("jumprelu_transcoder", "resid"))
        for saes in (*((name,) for name in SAES if name != "skip_transcoder"), *several):
            found += [Case(model, saes), Case(model, saes, use_error_term=True)]
        ablate = ("blocks.1.hook_resid_pre.hook_sae_acts_post", 7)
        found += [
            Case(model, ("resid",), exclude_special_tokens=(0,)),
            Case(model, ("resid", "mlp"), use_error_term=True, exclude_special_tokens=(0,)),
            Case(model, ("resid",), use_error_term=True, ablate=ablate),
            Case(model, ("resid",), ablate=ablate),
            Case(model, ("resid", "z"), processed=True),
        ]
    return found


def build_sae(name: str) -> SAE:
    """A random SAE; every feature of some rows of the tiny models' activations."""
    keys, metadata = SAES[name]
    base = {"d_in": D, "d_sae": D_SAE, "dtype": "float32", "metadata": metadata}
    sae = SAE.from_config(SAEConfig.from_dict({**base, **keys})).requires_grad_(False)
    fill(sae.named_parameters(), name, sae.cfg.architecture)
    return sae


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


def build_models(folder: Path) -> None:
    for name, build in MODELS.items():
        build(folder / name)


@cache
def load_model(folder: Path, processed: bool) -> HookedSAETransformer:
    if processed:
        return HookedSAETransformer.from_pretrained(folder, device="cpu")
    return HookedSAETransformer.from_pretrained_no_processing(folder, device="cpu")


@torch.no_grad()
def answer(case: Case, models: Path) -> dict[str, Tensor]:
    """Our logits, and what the cache of the run holds of splices."""
    model = load_model(models / case.model, case.processed)
    tokens, saes = torch.tensor(TOKENS), [build_sae(name) for name in case.saes]
    options: dict[str, Any] = {
        "saes": saes,
        "use_error_term": case.use_error_term,
        "exclude_special_tokens": list(case.exclude_special_tokens) or False,
    }
    if case.ablate is not None:
        hook_name, feature = case.ablate

        def ablate(acts: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
            acts[..., feature] = 0
            return acts

        options["fwd_hooks"] = [(hook_name, ablate)]
        return {"logits": model.run_with_hooks_with_saes(tokens, **options)}
    logits = model.run_with_saes(tokens, **options)
    cached_logits, cached = model.run_with_cache_with_saes(tokens, **options)
    assert torch.equal(logits, cached_logits)
    kept = {name: cached[name] for name in cached if ".hook_sae_" in name}
    return {"logits": logits, **kept, **{name: cached[name] for name in case.also}}


def compare(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, float]:
    """Errors by entry; infinite where only one side has it, or in another shape."""
    errors = dict.fromkeys(ours.keys() ^ theirs.keys(), float("inf"))
    for key in sorted(ours.keys() & theirs.keys()):
        a, b = ours[key], theirs[key]
        size = max(1.0, float(b.abs().max()))
        errors[key] = float((a - b).abs().max()) / size if a.shape == b.shape else float("inf")
    return errors


def _ask(peer: Peer, folder: Path) -> dict[str, dict[str, Tensor]]:
    build_models(folder / "models")
    for model in MODELS:
        for name in SAES:
            build_sae(name).save_model(folder / "saes" / f"{model}.{name}")
    asked = {
        case.name: {**asdict(case), "saes": [f"{case.model}.{name}" for name in case.saes]}
        for case in (*cases(), *SKIPPING)
    }
    (folder / "cases.json").write_text(json.dumps({"tokens": TOKENS, "cases": asked}))
    peer.run(SCRIPT, folder)
    return {name: load_file(folder / "answers" / f"{name}.safetensors") for name in asked}


SKIPPING: Final = (Case("gpt2", ("skip_transcoder",)),)


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
            "a skip transcoder in a run",
            "goes without its skip: its splice calls `decode`",
            *_skip(folder),
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


def _skip(folder: Path) -> tuple[bool, str, bool]:
    (case,) = SKIPPING
    theirs = load_file(folder / "answers" / f"{case.name}.safetensors")
    ours = answer(case, folder / "models")
    sae, out = build_sae(case.saes[0]), "blocks.1.hook_mlp_out"
    without = theirs[f"{out}.hook_sae_recons"]
    whole = sae(theirs[f"{out}.hook_sae_input"])
    left_out = torch.equal(theirs[f"{out}.hook_sae_output"], without)
    added = float((ours[f"{out}.hook_sae_output"] - whole).abs().max()) < TOLERANCE
    return left_out, "is what `sae(x)` gives, skip included", added


def _cached_at(models: Path, entry: str) -> bool:
    model = load_model(models / "gpt2", False)
    _, cached = model.run_with_cache_with_saes(torch.tensor(TOKENS), saes=[build_sae("resid")])
    return torch.equal(cached[entry], cached[f"{entry}.hook_sae_output"])


def _own_hooks_survive(models: Path) -> bool:
    model, fired = load_model(models / "gpt2", False), list[str]()
    point = model.hook_dict["blocks.1.hook_resid_pre"]
    point.add_hook(lambda tensor, hook: fired.append(hook.name), is_permanent=True)
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
