"""Releases of every format: from a repository laid out as theirs to what the format computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.core.sae import foreign
from tests.core.sae.folders import edit_cfg, write_folder
from tests.core.sae.foreign import Case
from tests.core.sae.hub_server import Hub
from tests.core.sae.reference import random_activations

from saekit_core.directory import Entry, public_releases
from saekit_core.sae import SAE, Origin, parse_spec, read_sae_folder, resolve_spec
from saekit_core.sae.formats import FORMATS

RELEASES: dict[str, tuple[Callable[[Path], Case], str, str]] = {
    "circuit_tracer": (foreign.circuit_tracer, "mwhanna-qwen3-4b-transcoders", "layer_9"),
    "circuit_tracer_clt_layer": (
        foreign.circuit_tracer_clt_layer, "mntss-gemma-2-2b-2.5m-clt-as-per-layer", "layer_2",
    ),
    "connor_rob_hook_z": (foreign.connor_rob_hook_z, "gpt2-small-hook-z-kk", "blocks.5.hook_z"),
    "deepseek_r1": (
        foreign.deepseek_r1, "deepseek-r1-distill-llama-8b-qresearch", "blocks.19.hook_resid_post",
    ),
    "dictionary_learning": (
        lambda root: foreign.dictionary_learning(root, kind="AutoEncoderTopK"),
        "sae_bench_gemma-2-2b_topk_width-2pow12_date-1109", "blocks.12.hook_resid_post__trainer_0",
    ),
    "gemma_scope": (
        foreign.gemma_scope, "gemma-scope-2b-pt-res-canonical", "layer_12/width_16k/canonical",
    ),
    "gemma_scope_2": (foreign.gemma_scope_2, "gemma-scope-2-4b-pt-res-all",
                      "layer_7_width_16k_l0_small"),
    "gemma_scope_transcoder": (
        foreign.gemma_scope_transcoder, "gemma-scope-2b-pt-transcoders",
        "layer_3/width_16k/average_l0_54",
    ),
    "goodfire": (foreign.goodfire, "goodfire-llama-3.1-8b-instruct", "layer_19"),
    "llama_scope": (foreign.llama_scope, "llama_scope_lxr_8x", "l8r_8x"),
}  # fmt: skip


def test_every_format_of_the_directory_can_be_read() -> None:
    assert {release.format for release in public_releases().values()} <= FORMATS.keys()


def test_every_config_override_is_a_key_of_ours(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "sae")
    for release in public_releases().values():
        if release.config_overrides:
            read_sae_folder(folder, origin=Origin(config_overrides=release.config_overrides))


def publish(hub: Hub, case: Case, entry: Entry) -> None:
    """The case's files where the release has those of the entry, and others beside them."""
    repo = hub.add(entry.repo)
    files = {"README.md": b"a page", f"{entry.path}.md": b"another", "x/params.bin": b"\0" * 9}
    folder, file = FORMATS[entry.format].locate(entry.path)
    source = case.path.parent if file else case.path
    stem, meant = case.path.name.removesuffix(".pt"), (file or "").removesuffix(".pt")
    for path in source.rglob("*"):
        if path.is_file():
            name = path.relative_to(source).as_posix()
            name = name.replace(stem, meant) if file else name
            files[f"{folder}/{name}".lstrip("/")] = path.read_bytes()
    repo.commit("main", files, "files")


@pytest.mark.parametrize("format", RELEASES)
@pytest.mark.filterwarnings("ignore:a layer of a cross-layer transcoder:UserWarning")
def test_a_release_of_another_format_loads_by_name(format: str, hub: Hub, tmp_path: Path) -> None:
    write, release, sae_id = RELEASES[format]
    entry = public_releases()[release].entries[sae_id]
    assert entry.format == format
    case = write(tmp_path)
    publish(hub, case, entry)
    sae, cfg_dict, _ = SAE.from_pretrained(release, sae_id)
    x = random_activations(3, 8).double()
    acts = case.encode(x)
    assert torch.allclose(sae.encode(x.float()).double(), acts, rtol=1e-5, atol=1e-5)
    y = sae.decode(sae.encode(x.float())) if sae.cfg.d_out == 8 else None
    assert y is None or torch.allclose(y.double(), case.decode(acts, x), rtol=1e-4, atol=1e-4)
    assert cfg_dict["neuronpedia_id"] == entry.neuronpedia_id
    assert cfg_dict["hook_name"]
    fetched = {r.path for r in hub.requests if r.method == "GET" and "/resolve/" in r.path}
    assert not [path for path in fetched if path.endswith((".md", ".bin"))]
    # Another SAE's file lies beside it.
    assert not [path for path in fetched if path.endswith("layer_10.safetensors")]


def test_the_factor_of_a_release_is_folded(hub: Hub, tmp_path: Path) -> None:
    """As `fold_activation_norm_scaling_factor` of SAELens: x is multiplied by it, x̂ divided."""
    release, sae_id = "gpt2-small-mlp-tm", "blocks.3.hook_mlp_out"
    entry = public_releases()[release].entries[sae_id]
    factor = entry.norm_scaling_factor
    assert factor is not None
    folder = write_folder(tmp_path / "repo" / entry.path)
    unscaled = SAE.load_from_disk(folder)
    edit_cfg(folder, normalize_activations="expected_average_only_in")
    hub.add(entry.repo, tmp_path / "repo")
    sae, cfg_dict, _ = SAE.from_pretrained(release, sae_id)
    x = random_activations(3, 12).float()
    torch.testing.assert_close(sae.encode(x), unscaled.encode(x * factor))
    torch.testing.assert_close(sae(x), unscaled(x * factor) / factor)
    assert cfg_dict["normalize_activations"] == "none"
    # The repository by its own name is the same SAE.
    again = SAE.from_pretrained(entry.repo, entry.path)
    assert torch.equal(again.W_enc, sae.W_enc)


def test_a_factor_that_only_the_release_knows_is_folded(hub: Hub, tmp_path: Path) -> None:
    release, sae_id = "llama_scope_r1_distill", "l15r_800m_slimpajama"
    entry = public_releases()[release].entries[sae_id]
    case = foreign.llama_scope_r1_distill(tmp_path, recorded=False)
    publish(hub, case, entry)
    sae = SAE.from_pretrained(release, sae_id)
    known = Origin(norm_scaling_factor=entry.norm_scaling_factor)
    x = random_activations(3, 8).float()
    torch.testing.assert_close(sae(x), read_sae_folder(case.path, origin=known)(x))


@pytest.mark.parametrize(
    ("write", "place"),
    [
        (foreign.gemma_scope, "gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_71"),
        (foreign.circuit_tracer, "qwen3-4b-transcoders/layer_9.safetensors"),
        (foreign.goodfire, "Goodfire/Llama-3.1-8B-Instruct-SAE-l19.pth"),
        (foreign.llama_scope, "Llama3_1-8B-Base-L8R-8x"),
    ],
)
def test_a_repository_of_another_format_is_recognised(
    write: Callable[[Path], Case], place: str, hub: Hub, tmp_path: Path
) -> None:
    case = write(tmp_path / "repo")
    hub.add("user/saes", tmp_path / "repo")
    sae_id, path, origin = resolve_spec(parse_spec(f"hf://user/saes/{place}@main"), tmp_path)
    assert sae_id == f"user/saes/{place}"
    sae = read_sae_folder(path, origin=origin)
    x = random_activations(3, 8).double()
    assert torch.allclose(sae.encode(x.float()).double(), case.encode(x), rtol=1e-5, atol=1e-5)
    assert sae.cfg.hook_name == case.config["hook_name"]


def test_a_folder_of_several_saes_asks_for_one(hub: Hub, tmp_path: Path) -> None:
    foreign.circuit_tracer(tmp_path / "repo")
    hub.add("user/saes", tmp_path / "repo")
    with pytest.raises(Exception, match=r"holds 2 SAEs, add the name of one: layer_10\.safet"):
        SAE.from_pretrained("user/saes", "qwen3-4b-transcoders")
