"""SAEs of other libraries: the same files read here and by the loaders of sae-lens."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from tests.core.sae import foreign
from tests.parity.peer import Peer
from tests.parity.report import Section

from saekit_core.sae import SAE, Origin, read_sae_folder

SCRIPT: Final = "sae_lens_formats.py"
TOLERANCE: Final = 1e-5
CONFIG: Final = (
    "architecture",
    "apply_b_dec_to_input",
    "normalize_activations",
    "reshape_activations",
    "k",
)
"""Keys of the configuration that are compared; and of its metadata, these:"""
METADATA: Final = (
    "model_name",
    "hook_name",
    "hook_name_out",
    "context_size",
    "prepend_bos",
    "dataset_path",
)
_SIZES: Final = {"d_in": foreign.D_IN, "d_sae": foreign.D_SAE}


@dataclass(frozen=True)
class Case:
    """Files that both read."""

    name: str
    loader: str
    """Its name in sae-lens."""
    repo: str
    write: Callable[[Path], Path]
    """Writes the SAE below a folder; returns what is to be loaded."""
    depth: int
    """Folders of that path that belong to the repository."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """What sae-lens is told: sizes that it takes for granted."""
    norm_scaling_factor: float | None = None
    differs: str = ""
    """Why feature activations or reconstructions differ on purpose."""
    says_else: Mapping[str, str] = field(default_factory=dict)
    """Key of the configuration → why it differs on purpose."""


def _dictionary(kind: str, differs: str = "") -> Case:
    return Case(
        f"dictionary_learning {kind}",
        "dictionary_learning_1",
        "canrager/lm_sae",
        lambda r: foreign.dictionary_learning(r, kind=kind).path,
        2,
        differs=differs,
    )


def _gemma_2(site: str, differs: str = "") -> Case:
    repo = f"google/gemma-scope-2b-pt-{'res' if site == 'embedding' else site}"
    return Case(
        f"gemma_scope {site}",
        "gemma_2",
        repo,
        lambda r: foreign.gemma_scope(r, site=site).path,
        3,
        _SIZES,
        differs=differs,
    )


def _gemma_3(site: str, **says_else: str) -> Case:
    return Case(
        f"gemma_scope_2 {site}",
        "gemma_3",
        "google/gemma-scope-2-4b-pt",
        lambda r: foreign.gemma_scope_2(r, site=site).path,
        2,
        says_else=says_else,
    )


_MLP_IN: Final = (
    "their hook_mlp_in is before the norm, config.json's pre_feedforward_layernorm.output behind it"
)
_UNIT: Final = "their threshold takes decoder rows for unit vectors"
_FACTOR: Final = math.sqrt(foreign.D_IN) / 2.0
_LLAMA: Final = "fnlp/Llama3_1-8B-Base-LXR-8x"
_R1: Final = "fnlp/Llama-Scope-R1-Distill"

CASES: Final = (
    _gemma_2("res"),
    _gemma_2("mlp"),
    _gemma_2("att"),
    _gemma_2("embedding", "they do not scale b_dec, which is in the same units as W_dec"),
    Case(
        "gemma_scope_transcoder",
        "gemma_2_transcoder",
        "google/gemma-scope-2b-pt-transcoders",
        lambda r: foreign.gemma_scope_transcoder(r).path,
        3,
        {**_SIZES, "d_out": foreign.D_IN},
    ),
    _gemma_3("resid_post"),
    _gemma_3("mlp_out"),
    _gemma_3("attn_out", reshape_activations="a hook_z has heads, which they do not flatten"),
    _gemma_3("transcoder", hook_name=_MLP_IN),
    _gemma_3("transcoder_affine", hook_name=_MLP_IN),
    Case(
        "llama_scope",
        "llama_scope",
        _LLAMA,
        lambda r: foreign.llama_scope(r, norms=False).path,
        1,
        norm_scaling_factor=math.sqrt(foreign.D_IN) / 1.5,
    ),
    Case(
        "llama_scope sparsity_include_decoder_norm",
        "llama_scope",
        _LLAMA,
        lambda r: foreign.llama_scope(r).path,
        1,
        norm_scaling_factor=math.sqrt(foreign.D_IN) / 1.5,
        differs=_UNIT,
    ),
    Case(
        "llama_scope_r1_distill",
        "llama_scope_r1_distill",
        _R1,
        lambda r: foreign.llama_scope_r1_distill(r, recorded=False, norms=False).path,
        1,
        norm_scaling_factor=_FACTOR,
    ),
    Case(
        "llama_scope_r1_distill sparsity_include_decoder_norm",
        "llama_scope_r1_distill",
        _R1,
        lambda r: foreign.llama_scope_r1_distill(r).path,
        1,
        norm_scaling_factor=_FACTOR,
        differs=_UNIT,
    ),
    _dictionary("AutoEncoder"),
    _dictionary("AutoEncoderNew", "they do not load it"),
    _dictionary("GatedAutoEncoder"),
    _dictionary("AutoEncoderTopK"),
    _dictionary("BatchTopKSAE"),
    _dictionary("MatryoshkaBatchTopKSAE"),
    _dictionary("JumpReluAutoEncoder"),
    Case(
        "sparsify",
        "sparsify",
        "EleutherAI/sae-pythia",
        lambda r: foreign.sparsify(r, square=True).path,
        1,
        differs="they transpose W_dec, and do not subtract b_dec",
        says_else={
            "apply_b_dec_to_input": "sparsify subtracts b_dec whatever normalize_decoder says",
            "context_size": "2048 where nothing says it",
            "dataset_path": "RedPajama where nothing says it",
            "model_name": "the parent folder's name where nothing says it",
        },
    ),
    Case(
        "goodfire",
        "goodfire",
        "Goodfire/Llama-3.1-8B-Instruct-SAE-l19",
        lambda r: foreign.goodfire(r).path,
        1,
        _SIZES,
    ),
    Case(
        "deepseek_r1",
        "deepseek_r1",
        "qresearch/DeepSeek-R1-Distill-Llama-8B-SAE-l19",
        lambda r: foreign.deepseek_r1(r).path,
        1,
        _SIZES,
    ),
    Case(
        "qwen_scope",
        "qwen_scope",
        f"Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_{foreign.K}",
        lambda r: foreign.qwen_scope(r).path,
        1,
        _SIZES,
    ),
    Case(
        "connor_rob_hook_z",
        "connor_rob_hook_z",
        "ckkissane/attn-saes-gpt2-small-all-layers",
        lambda r: foreign.connor_rob_hook_z(r).path,
        1,
    ),
    Case(
        "circuit_tracer",
        "mwhanna_transcoder",
        "mwhanna/qwen3-4b-transcoders",
        lambda r: foreign.circuit_tracer(r).path,
        1,
        says_else={"hook_name_out": "config.yaml says mlp.hook_out; the same place in this model"},
    ),
    Case(
        "circuit_tracer_clt_layer",
        "mntss_clt_layer_transcoder",
        "mntss/clt-gemma-2-2b-2.5M",
        lambda r: foreign.circuit_tracer_clt_layer(r).path,
        1,
    ),
    *(
        Case(
            f"temporal{' tied' if tied else ''}",
            "temporal",
            "canrager/temporalSAEs",
            lambda r, tied=tied: foreign.temporal(r, tied=tied)[0],
            3,
        )
        for tied in (False, True)
    ),
)


def run(peer: Peer, folder: Path) -> list[Section]:
    """Every case on both sides."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 16, foreign.D_IN, generator=generator) * 2 + 0.5
    save_file({"x": x}, folder / "x.safetensors")
    asked, ours = [], {}
    for case in CASES:
        path = case.write(folder / "files" / case.name.replace(" ", "_"))
        root = path.parents[case.depth - 1]
        inside = path.relative_to(root).as_posix()
        ours[case.name] = _ours(case, path, inside)
        if case.loader == "mntss_clt_layer_transcoder":
            inside = path.stem.rsplit("_", 1)[1]  # they take the layer's number
        asked.append(
            {
                "name": case.name,
                "loader": case.loader,
                "repo": case.repo,
                "path": inside,
                "root": str(root),
                "overrides": case.overrides,
                "norm_scaling_factor": case.norm_scaling_factor,
            }
        )
    (folder / "cases.json").write_text(json.dumps(asked))
    peer.run(SCRIPT, folder)
    theirs = json.loads((folder / "answers.json").read_text())
    rows, failures = [], []
    for case in CASES:
        numbers, wrong = _compare(case, ours[case.name], theirs[case.name], x, folder)
        says, unlike = _compare_config(case, ours[case.name], theirs[case.name])
        rows.append([case.name, numbers, says])
        failures += [f"{case.name}: {problem}" for problem in (*wrong, *unlike)]
    text = (
        "The same files, written by `tests/core/sae/foreign`, read by saekit and by the loader of "
        f"sae-lens. Equal: the same active features, values to {TOLERANCE:g} of the largest. Where "
        "the two differ, saekit is held to the formula of the library that the format comes from, "
        "in `tests/core/sae/test_formats.py`."
    )
    columns = ("format", "encode and forward", "configuration")
    return [Section("Formats of other libraries", text, columns, rows, failures)]


def _ours(case: Case, path: Path, inside: str) -> SAE:
    factor = case.norm_scaling_factor
    origin = Origin(repo=case.repo, path=inside, norm_scaling_factor=factor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read_sae_folder(path, dtype="float32", origin=origin)


@torch.no_grad()
def _compare(
    case: Case, sae: SAE, theirs: Mapping[str, Any], x: torch.Tensor, folder: Path
) -> tuple[str, list[str]]:
    """What the table says of the numbers, and what is wrong with them."""
    if "error" in theirs:
        return f"*{case.differs or 'fails there'}*", [] if case.differs else [theirs["error"]]
    expected = load_file(folder / "answers" / f"{case.name}.safetensors")
    acts = sae.encode(x)
    pairs = ((acts, expected["acts"]), (sae(x), expected["forward"]))
    error = max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
    same = torch.equal(acts != 0, expected["acts"] != 0) and error <= TOLERANCE
    if case.differs:
        problem = [] if not same else [f"no longer differs ({case.differs})"]
        return f"*{case.differs}*", problem
    return f"{error:.0e}", [] if same else [f"off by {error:.1e}, or other features are active"]


def _compare_config(case: Case, sae: SAE, theirs: Mapping[str, Any]) -> tuple[str, list[str]]:
    if "error" in theirs:
        return "", []
    config = theirs["config"]
    pairs = {key: (getattr(sae.cfg, key), config.get(key)) for key in CONFIG}
    pairs |= {
        key: (getattr(sae.cfg.metadata, key), config["metadata"].get(key)) for key in METADATA
    }
    unlike = {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
    problems = [
        f"{key} is {pair[0]!r}, there {pair[1]!r}"
        for key, pair in unlike.items()
        if key not in case.says_else
    ]
    problems += [f"{key} no longer differs" for key in case.says_else if key not in unlike]
    says = "; ".join(f"*`{key}`: {why}*" for key, why in case.says_else.items())
    return says or "equal", problems
