"""SAEs of other libraries, put into a running server's SAE root, answer by their own formulas."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
from tests.core.sae import foreign
from tests.core.sae.foreign import Case
from tests.core.sae.reference import random_activations
from tests.models import build_llama, story
from tests.registries import D_MODEL, refused, tiny_model
from tests.serving import Running, serving, wait_until

from saekit.codec import numpy_to_tensor, rows_to_csr
from saekit.v1 import input_pb2
from saekit.v1 import registry_service_pb2 as registry_pb
from saekit.v1 import sae_service_pb2 as pb
from saekit_core.sae import Origin, read_sae_folder_owned
from saekit_server.config import ServeConfig
from saekit_server.registry import FolderWatcher, Registry
from saekit_server.registry.loading import Loader
from saekit_server.registry.sources import Source

WRITERS: dict[str, Callable[[Path], Case]] = {
    "gemma-scope-2b-pt-res/layer_1/width_16k/average_l0_71": (
        lambda root: foreign.gemma_scope(root, d_in=D_MODEL, layer=1)
    ),
    "resid_post_layer_1/trainer_0": (
        lambda root: foreign.dictionary_learning(root, kind="BatchTopKSAE", d_in=D_MODEL, layer=1)
    ),
    "EleutherAI/sae-pythia/layers.1": (
        lambda root: foreign.sparsify(root, module="layers.1", d_in=D_MODEL)
    ),
}
HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("foreign")


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Running]:
    """A server that watches an SAE root, which is empty when it starts."""
    build_llama(root / "model", n_layers=2)
    (root / "saes").mkdir()
    config = ServeConfig(
        model=str(root / "model"),
        device="cpu",
        sae_dir=root / "saes",
        watch=True,
        watch_interval_s=0.05,
        listen="127.0.0.1:0",
        http="127.0.0.1:0",
        drain_s=0.0,
    )
    with serving(config) as running:
        yield running


def appear(root: Path, write: Callable[[Path], Case], sae_id: str) -> Case:
    """Write an SAE aside and rename it into the SAE root, as one should."""
    case = write(root / "aside" / sae_id.replace("/", "-"))
    target = root / "saes" / sae_id
    target.parent.mkdir(parents=True, exist_ok=True)
    os.rename(case.path, target)
    return case


def known(server: Running) -> dict[str, registry_pb.SAEInfo]:
    listed = server.registry.ListSAEs(registry_pb.ListSAEsRequest()).saes
    return {info.sae_id: info for info in listed}


@pytest.mark.parametrize("sae_id", WRITERS)
def test_a_foreign_folder_is_hot_loaded_and_encodes_by_its_own_formula(
    root: Path, server: Running, sae_id: str
) -> None:
    case = appear(root, WRITERS[sae_id], sae_id)
    wait_until(lambda: sae_id in known(server))
    x = random_activations(24, D_MODEL)
    options = pb.EncodeOptions(saes=[pb.SAEQuery(sae=sae_id)])
    given = input_pb2.Input(activations=numpy_to_tensor(x.float().numpy()))
    request = pb.EncodeRequest(inputs=[given], options=options)
    (result,) = server.sae.Encode(request).results
    (encoding,) = result.encodings
    expected = case.encode(x.float().double()).numpy()
    got = rows_to_csr(encoding.sparse).toarray()
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert 0 < (got != 0).mean() < 1

    request = pb.EncodeRequest(inputs=[input_pb2.Input(text=story(12, 3))], options=options)
    (result,) = server.sae.Encode(request).results
    model = server.server.parts.model
    with torch.no_grad():
        _, cache = model.bridge.run_with_cache(torch.tensor([list(result.tokens.ids)]))
    expected = case.encode(cache[HOOK][0].double()).numpy()
    got = rows_to_csr(result.encodings[0].sparse).toarray()
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert result.encodings[0].sae_revision == known(server)[sae_id].revision


def test_an_sae_that_is_a_file_is_loaded_by_its_path_and_by_hand(
    root: Path, server: Running, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    weights = {
        "encoder_linear.weight": torch.randn(48, D_MODEL),
        "decoder_linear.weight": torch.randn(D_MODEL, 48),
        "encoder_linear.bias": torch.randn(48),
        "decoder_linear.bias": torch.randn(D_MODEL),
    }
    name = "Llama-tiny-SAE-l1.pth"
    torch.save(weights, tmp_path / name)
    os.rename(tmp_path / name, root / "saes" / name)
    wait_until(lambda: name in known(server))
    request = registry_pb.LoadSAERequest(source=f"file:{name}", sae_id="by-hand")
    assert server.registry.LoadSAE(request).sae.revision == known(server)[name].revision
    os.remove(root / "saes" / name)
    wait_until(lambda: name not in known(server))
    assert "by-hand" in known(server)


def test_a_hostile_file_is_refused_over_the_wire_with_the_reason(
    root: Path, server: Running, tmp_path: Path
) -> None:
    case = foreign.dictionary_learning(tmp_path, d_in=D_MODEL, layer=1)
    values = torch.load(case.weights, weights_only=True)
    torch.save({**values, "evil": os.path.join}, case.weights)
    os.rename(case.path, root / "saes" / "hostile")
    with pytest.raises(grpc.RpcError) as caught:
        server.registry.LoadSAE(registry_pb.LoadSAERequest(source="hostile"))
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert "ae.pt: its pickle asks for" in caught.value.details()
    assert "hostile" not in known(server)
    (root / "saes" / "hostile").rename(tmp_path / "gone")


def test_a_file_whose_link_leads_out_of_the_root_is_refused(tmp_path: Path) -> None:
    top = tmp_path / "root"
    case = foreign.dictionary_learning(top, d_in=D_MODEL, layer=1)
    case.weights.rename(tmp_path / "ae.pt")
    case.weights.symlink_to(tmp_path / "ae.pt")
    registry = Registry(tiny_model(), sae_root=top)
    relative = case.path.relative_to(top).as_posix()
    error = refused("INVALID_ARGUMENT", registry.load, f"file:{relative}")
    assert "leads out of the SAE root" in error.message
    registry.close()


def test_files_that_cannot_fit_the_budget_are_refused_unread(tmp_path: Path) -> None:
    case = foreign.llama_scope(tmp_path)
    case.weights.write_bytes(b"no safetensors" * 1000)
    registry = Registry(tiny_model(), sae_root=tmp_path, memory_budget_bytes=1000)
    error = refused("RESOURCE_EXHAUSTED", registry.load, f"file:{case.path.name}")
    assert re.match(r"its files have \d+ bytes, the memory budget is 1000", error.message)
    registry.close()


def test_the_watcher_sees_files_change_and_folders_that_are_incomplete(tmp_path: Path) -> None:
    top = tmp_path / "root"
    case = foreign.dictionary_learning(top, d_in=D_MODEL, layer=1)
    layers = foreign.circuit_tracer(tmp_path / "other").path.parent
    registry = Registry(tiny_model(), sae_root=top)
    watcher = FolderWatcher(registry)
    sae_id = case.path.relative_to(top).as_posix()
    assert watcher.poll_once().loaded == (sae_id,)
    before = registry.get(sae_id).revision
    assert watcher.poll_once().loaded == ()

    foreign.dictionary_learning(top, kind="GatedAutoEncoder", d_in=D_MODEL, layer=1)
    assert watcher.poll_once().loaded == (sae_id,)
    assert registry.get(sae_id).revision != before

    (case.path / "config.json").rename(tmp_path / "config.json")
    report = watcher.poll_once()
    assert list(report.failed) == [sae_id]
    assert "config.json: missing" in report.failed[sae_id].message
    assert registry.get(sae_id).sae.cfg.architecture == "gated"  # it still serves

    layers.rename(top / "transcoders")  # each of its files is one, of another model
    failed = watcher.poll_once().failed
    assert sorted(failed) == [
        "transcoders/layer_10.safetensors",
        "transcoders/layer_9.safetensors",
    ]
    registry.close()


def test_a_source_s_origin_goes_with_the_sae_when_it_leaves_memory_and_comes_back(
    tmp_path: Path,
) -> None:
    from tests.core.sae.folders import edit_cfg
    from tests.registries import publish

    folder = publish(tmp_path / "x", 3)
    edit_cfg(folder, normalize_activations="expected_average_only_in")
    origin = Origin(norm_scaling_factor=2.0)
    loader = Loader(tiny_model(), torch.device("cpu"), None, lambda call: call())
    owned = loader.read(folder, None, origin)
    assert owned.revision == read_sae_folder_owned(folder, origin=origin).revision
    info = loader.describe(owned, Source("release/x", "x", folder, origin), 0.0)
    assert info.origin == origin
    assert info.cfg.normalize_activations == "none"
    assert int(loader.build(owned, info).sae.b_dec[-1] * 2) == 3
