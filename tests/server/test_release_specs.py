"""Public releases and Hugging Face repositories by their specs, from a stand-in of the Hub."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
from tests.core.sae import foreign
from tests.core.sae.folders import edit_cfg
from tests.core.sae.hub_server import Hub, serving_hub, use_hub
from tests.core.sae.reference import random_activations
from tests.models import build_gpt2
from tests.registries import D_MODEL, publish, reconstruction, refused, tiny_model
from tests.serving import Running, serving

from saekit.codec import numpy_to_tensor, rows_to_csr
from saekit.v1 import input_pb2
from saekit.v1 import registry_service_pb2 as registry_pb
from saekit.v1 import sae_service_pb2 as pb
from saekit_core.directory import public_releases
from saekit_core.sae import SAE, folder_revision
from saekit_core.sae.folding import FOLDED_FROM
from saekit_server.config import ServeConfig
from saekit_server.registry import Manifest, Registry

STARTED = "pythia-70m-deduped-att-sm/blocks.1.hook_attn_out"
RELEASE, SAE_ID = "pythia-70m-deduped-res-sm", "blocks.1.hook_resid_post"
SCALED = "gpt2-small-mlp-tm/blocks.1.hook_mlp_out"


@dataclass
class Published:
    """A stand-in of the Hub with releases on it, and the folders that it got."""

    hub: Hub
    root: Path

    def add(self, spec: str, seed: int = 0, *, hook_name: str = "", **changes: object) -> Path:
        """Put an SAE where the release of a spec has it; `changes` are keys of its cfg.json."""
        release, _, sae_id = spec.partition("/")
        entry = public_releases()[release].entries[sae_id]
        folder = publish(self.root / entry.repo / entry.path, seed, hook_name=hook_name or sae_id)
        edit_cfg(folder, **changes)
        self.hub.add(entry.repo, self.root / entry.repo)
        return folder


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    root = tmp_path_factory.mktemp("hub")
    with serving_hub() as hub, pytest.MonkeyPatch.context() as patch:
        use_hub(hub, root / "hf", patch)
        yield Published(hub, root / "repos")


@pytest.fixture(scope="module")
def server(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """It starts with an SAE of a release."""
    published.add(STARTED)
    root = tmp_path_factory.mktemp("server")
    config = ServeConfig(
        model=str(build_gpt2(root / "tiny-gpt2", n_layers=2)),
        device="cpu",
        saes=(STARTED,),
        sae_dir=root,
        listen="127.0.0.1:0",
        drain_s=0.0,
    )
    with serving(config) as running:
        yield running


def load(server: Running, source: str, **options: object) -> registry_pb.SAEInfo:
    request = registry_pb.LoadSAERequest(source=source, **options)
    return server.registry.LoadSAE(request).sae


def encoded(server: Running, sae: str, x: torch.Tensor) -> np.ndarray:
    given = input_pb2.Input(activations=numpy_to_tensor(x.numpy()))
    options = pb.EncodeOptions(saes=[pb.SAEQuery(sae=sae)])
    (result,) = server.sae.Encode(pb.EncodeRequest(inputs=[given], options=options)).results
    return rows_to_csr(result.encodings[0].sparse).toarray()


def test_a_server_starts_with_an_sae_of_a_release(server: Running) -> None:
    info = server.registry.GetSAE(registry_pb.GetSAERequest(sae=STARTED)).sae
    assert info.source == info.sae_id == STARTED
    assert info.neuronpedia_url == "https://neuronpedia.org/pythia-70m-deduped/1-att-sm"


def test_a_release_is_loaded_over_the_wire_and_encodes(
    server: Running, published: Published
) -> None:
    folder = published.add(f"{RELEASE}/{SAE_ID}", seed=1)
    info = load(server, f"{RELEASE}/{SAE_ID}")
    assert info.sae_id == f"{RELEASE}/{SAE_ID}"
    assert info.neuronpedia_id == "pythia-70m-deduped/1-res-sm"
    assert info.revision == folder_revision(folder)
    x = random_activations(6, D_MODEL).float()
    expected = SAE.load_from_disk(folder).encode(x).detach().numpy()
    np.testing.assert_allclose(encoded(server, info.sae_id, x), expected, rtol=1e-5, atol=1e-5)


def test_a_revision_of_the_repository_pins(server: Running, published: Published) -> None:
    repo = published.hub.repos[public_releases()[RELEASE].repo]
    old = repo.branches["main"]
    path = public_releases()[RELEASE].entries[SAE_ID].path
    new = publish(published.root / "new", seed=2, hook_name=SAE_ID)
    repo.commit("main", {f"{path}/{f.name}": f.read_bytes() for f in new.iterdir()}, "retrained")
    newest = load(server, f"{RELEASE}/{SAE_ID}", sae_id="newest")
    pinned = load(server, f"{RELEASE}/{SAE_ID}@{old}", sae_id="pinned")
    assert pinned.source == f"{RELEASE}/{SAE_ID}@{old}"
    assert newest.revision == folder_revision(new) != pinned.revision


def test_a_factor_of_the_release_is_folded_and_part_of_the_revision(
    server: Running, published: Published
) -> None:
    folder = published.add(SCALED, seed=3)
    unscaled = SAE.load_from_disk(folder)
    published.add(SCALED, seed=3, normalize_activations=FOLDED_FROM)
    release, _, sae_id = SCALED.partition("/")
    entry = public_releases()[release].entries[sae_id]
    info = load(server, SCALED)
    assert info.revision != folder_revision(folder)
    x = random_activations(6, D_MODEL).float()
    assert entry.norm_scaling_factor is not None
    got = encoded(server, SCALED, x)
    # On raw weights the mean is taken out as well, for which the release asks.
    centred = x - x.mean(dim=-1, keepdim=True)
    expected = unscaled.encode(centred * entry.norm_scaling_factor).detach().numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_a_repository_of_another_format_is_loaded_by_path(
    server: Running, published: Published, tmp_path: Path
) -> None:
    case = foreign.gemma_scope(tmp_path, d_in=D_MODEL, layer=1)
    published.hub.add("user/saes", tmp_path)
    place = case.path.relative_to(tmp_path).as_posix()
    info = load(server, f"hf://user/saes/{place}@main")
    assert info.sae_id == f"user/saes/{place}"
    x = random_activations(6, D_MODEL).float()
    expected = case.encode(x.double()).numpy()
    np.testing.assert_allclose(encoded(server, info.sae_id, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (f"{RELEASE}/blocks.1.hook_resid_pist", "near: blocks.1.hook_resid_post"),
        (f"{RELEASE}/{SAE_ID}@v9", "no such revision"),
        (RELEASE, f"add its id, as {RELEASE}/"),
        ("hf://user/nothing/x", "no such repository"),
        ("gpt2-small-res_sce-ajt/blocks.2.hook_resid_pre", "no such repository"),
    ],
)
def test_what_is_not_there_is_not_found(server: Running, source: str, message: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        load(server, source, sae_id="x")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    assert message in caught.value.details()


def test_it_leaves_memory_and_comes_back_with_what_the_release_states(
    published: Published,
) -> None:
    scaled = "gemma-2b-res-jb/blocks.12.hook_resid_post"
    published.add(scaled, hook_name="blocks.1.hook_resid_post", normalize_activations=FOLDED_FROM)
    registry = Registry(tiny_model())
    before = reconstruction(registry.load(scaled).loaded)
    registry.park(scaled)
    assert np.array_equal(reconstruction(registry.restore(scaled).result(10)), before)
    registry.close()


def test_a_manifest_names_releases(published: Published, tmp_path: Path) -> None:
    published.add(f"{RELEASE}/{SAE_ID}")
    (tmp_path / "saes.toml").write_text(
        f'[sae.res1]\nspec = "{RELEASE}/{SAE_ID}"\n[sae.typo]\nspec = "{RELEASE}/blocks.1"\n'
    )
    registry = Registry(tiny_model())
    report = Manifest(registry, tmp_path / "saes.toml").poll_once()
    assert report.loaded == ("res1",)
    assert registry.describe("res1").origin.neuronpedia_id == "pythia-70m-deduped/1-res-sm"
    assert report.failed["typo"].code == "NOT_FOUND"
    assert refused("NOT_FOUND", registry.load, f"{RELEASE}/blocks.1").field == "source"
    registry.close()
