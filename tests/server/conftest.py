"""Real servers of both small models, each with SAEs of every architecture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.models import build_gpt2, build_llama
from tests.saes import ARCHITECTURES, FURTHER, random_sae, write_sae
from tests.serving import Running, serving

from saekit_server.config import ServeConfig

D_MODEL = 32
HOOKS = {
    "standard": "blocks.1.hook_resid_pre",
    "gated": "blocks.1.hook_mlp_out",
    "jumprelu": "blocks.2.hook_resid_pre",
    "topk": "blocks.0.hook_resid_post",
}


NEURONPEDIA = {"topk": "tiny-model/0-topk-tst", "gated": "https://elsewhere.example/x"}
"""Ids in the metadata; the second is none."""


def make_saes(root: Path) -> Path:
    """One SAE of each architecture, one that normalises, and one of attention heads."""
    for seed, architecture in enumerate(ARCHITECTURES):
        page = NEURONPEDIA.get(architecture)
        sae = random_sae(HOOKS[architecture], D_MODEL, architecture, seed=seed, neuronpedia_id=page)
        write_sae(root / architecture, sae, max_activation=2.0)
    layer_norm = random_sae(HOOKS["jumprelu"], D_MODEL, normalization="layer_norm", seed=7)
    write_sae(root / "normed" / "layer_norm", layer_norm)
    rescaled = random_sae(
        HOOKS["standard"], D_MODEL, "standard", normalization="constant_norm_rescale", seed=8
    )
    write_sae(root / "normed" / "rescaled", rescaled)
    heads = random_sae(
        "blocks.1.attn.hook_z", D_MODEL, "standard", seed=9, reshape_activations="hook_z"
    )
    write_sae(root / "heads", heads)
    for seed, (architecture, settings) in enumerate(FURTHER.items(), 10):
        out = {"hook_name_out": "blocks.1.hook_mlp_out"} if "code" in architecture else {}
        sae = random_sae(
            "blocks.1.hook_resid_mid" if out else "blocks.1.hook_resid_pre",
            D_MODEL,
            architecture,
            seed=seed,
            metadata=out,
            **settings,
        )
        write_sae(root / "further" / architecture, sae)
    return root


def start(tmp: pytest.TempPathFactory, kind: str) -> Iterator[Running]:
    root = tmp.mktemp(kind)
    build = build_llama if kind == "llama" else build_gpt2
    model = build(root / f"tiny-{kind}")
    config = ServeConfig(
        model=str(model),
        device="cpu",
        sae_dir=make_saes(root / "saes"),
        listen="127.0.0.1:0",
        http="127.0.0.1:0",
        slots=20,
        threads=1,
        drain_s=0.0,
    )
    with serving(config) as running:
        # Tests compare with it. Made while nothing runs: it copies the model with the hooks that a
        # batch has attached at that moment.
        assert running.server.parts.model.bridge is not None
        yield running


@pytest.fixture(scope="session")
def llama_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    yield from start(tmp_path_factory, "llama")


@pytest.fixture(scope="session")
def gpt2_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    yield from start(tmp_path_factory, "gpt2")


@pytest.fixture(scope="session", params=["llama", "gpt2"])
def server(request: pytest.FixtureRequest) -> Running:
    """Both types of model, one after the other."""
    running = request.getfixturevalue(f"{request.param}_server")
    assert isinstance(running, Running)
    return running
