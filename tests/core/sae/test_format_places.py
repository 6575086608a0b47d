"""Where SAEs of foreign formats are found, and what their revisions are made of."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.sae import foreign as folders
from tests.core.sae.folders import write_folder
from tests.core.sae.reference import random_activations, random_sae

from saekit_core.sae import (
    SAE,
    Origin,
    SAEError,
    SAEFormatError,
    folder_revision,
    read_sae_folder,
    read_sae_folder_owned,
)
from saekit_core.sae.formats import FORMATS, members

READERS = [read_sae_folder, read_sae_folder_owned]


def documented(folder: Path, names: list[str], facts: dict[str, Any] | None) -> str:
    sha = hashlib.sha256()
    entries = [(name, (folder / name).read_bytes()) for name in names]
    if facts is not None:
        text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
        entries.append(("//", text.encode()))
    for name, content in entries:
        sha.update(name.encode() + b"\0" + len(content).to_bytes(8, "little") + content)
    return sha.hexdigest()[:12]


def test_a_revision_is_over_the_files_and_what_their_names_tell(tmp_path: Path) -> None:
    case = folders.gemma_scope(tmp_path)
    revision = documented(case.path, ["params.npz"], {"hook_name": "blocks.12.hook_resid_post"})
    assert read_sae_folder_owned(case.path).revision == revision
    assert folder_revision(case.path) == revision
    moved = tmp_path / "elsewhere" / "gemma-scope-2b-pt-res" / "layer_12"
    moved.parent.mkdir(parents=True)
    case.path.rename(moved)
    assert folder_revision(moved) == revision
    other = moved.rename(moved.parent / "layer_13")  # which reads another hook point
    assert folder_revision(other) != revision

    case = folders.dictionary_learning(tmp_path)
    revision = documented(case.path, ["ae.pt", "config.json"], None)
    assert folder_revision(case.path) == revision
    case.path.rename(tmp_path / "x")
    assert folder_revision(tmp_path / "x") == revision

    case = folders.llama_scope(tmp_path)
    names = ["checkpoints/final.safetensors", "hyperparams.json"]
    assert folder_revision(case.path) == documented(case.path, names, None)

    file = folders.goodfire(tmp_path).path
    facts = {"hook_name": "blocks.19.hook_resid_post"}
    assert read_sae_folder_owned(file).revision == documented(file.parent, [file.name], facts)
    (file.parent / "README.md").write_text("not an answer")
    assert folder_revision(file) == documented(file.parent, [file.name], facts)


def test_an_origin_that_changes_answers_changes_the_revision(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "sae", normalization="expected_average_only_in")
    bare = folder_revision(folder)
    for origin in (
        Origin(),
        Origin(repo="user/repo", path="x", release="r", sae_id="i", model_name="gpt2"),
        Origin(neuronpedia_id="gpt2-small/8-res-jb", config_overrides={"dataset_path": "pile"}),
    ):
        assert folder_revision(folder, origin=origin) == bare
        assert read_sae_folder_owned(folder, origin=origin).revision == bare
    revisions = {bare}
    for origin in (
        Origin(norm_scaling_factor=2.0),
        Origin(norm_scaling_factor=3.0),
        Origin(config_overrides={"normalize_activations": "layer_norm"}),
        Origin(config_overrides={"hook_name": "blocks.3.hook_resid_pre"}),
        Origin(config_overrides={"model_from_pretrained_kwargs": {"center_writing_weights": True}}),
    ):
        revision = read_sae_folder_owned(folder, origin=origin).revision
        assert folder_revision(folder, origin=origin) == revision
        revisions.add(revision)
    assert len(revisions) == 6


@pytest.mark.parametrize("read", READERS)
@torch.no_grad()
def test_the_factor_of_a_release_is_folded_into_a_native_folder(tmp_path: Path, read: Any) -> None:
    def loaded(folder: Path, origin: Origin) -> SAE:
        sae = read(folder, origin=origin)
        return sae if isinstance(sae, SAE) else sae.build()

    x = random_activations(16, 12).float()
    factor = Origin(norm_scaling_factor=2.5)
    for kind in ("standard", "gated", "jumprelu", "topk", "topk_rescaled"):
        folder = write_folder(tmp_path / kind, kind, normalization="expected_average_only_in")
        plain = SAE.load_from_disk(folder)
        sae = loaded(folder, factor)
        assert sae.cfg.normalize_activations == "none"
        torch.testing.assert_close(sae(x), plain(x * 2.5) / 2.5)
    # Where activations are not normalised, there is nothing to fold.
    none = write_folder(tmp_path / "none", "standard")
    assert torch.equal(loaded(none, factor).W_enc, SAE.load_from_disk(none).W_enc)


@torch.no_grad()
def test_folding_the_factor_is_encoding_scaled_activations() -> None:
    x = random_activations(32, 12).float()
    for kind in ("standard", "gated", "jumprelu", "topk", "topk_rescaled", "abstopk"):
        sae = random_sae(kind, "expected_average_only_in")
        acts, recon = sae.encode(3.0 * x), sae(3.0 * x) / 3.0
        sae.fold_activation_norm_scaling_factor(3.0)
        assert sae.cfg.normalize_activations == "none"
        rescaled = kind == "topk_rescaled"  # in units of the residual stream
        torch.testing.assert_close(sae.encode(x), acts / 3.0 if rescaled else acts)
        torch.testing.assert_close(sae(x), recon)


@torch.no_grad()
def test_folding_the_factor_moves_the_stopping_rule_of_matching_pursuit() -> None:
    x = random_activations(32, 12).float()
    sae = random_sae("matching_pursuit", "expected_average_only_in")
    sae.W_dec.div_(sae.W_dec.norm(dim=1, keepdim=True))
    assert sae.cfg.residual_threshold == 1.0
    acts, recon = sae.encode(4.0 * x) / 4.0, sae(4.0 * x) / 4.0
    sae.fold_activation_norm_scaling_factor(4.0)
    assert sae.cfg.residual_threshold == 0.25
    torch.testing.assert_close(sae.encode(x), acts)
    torch.testing.assert_close(sae(x), recon)


def test_a_factor_that_cannot_be_folded_is_refused() -> None:
    for factor in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(SAEError, match="norm_scaling_factor"):
            random_sae("standard").fold_activation_norm_scaling_factor(factor)
    with pytest.raises(SAEError, match="temporal"):
        random_sae("temporal").fold_activation_norm_scaling_factor(2.0)


@pytest.mark.parametrize(
    ("name", "path", "expected"),
    [
        ("saelens", "blocks.8.hook_resid_pre", ("blocks.8.hook_resid_pre", None)),
        (
            "gemma_scope",
            "layer_0/width_16k/average_l0_12",
            ("layer_0/width_16k/average_l0_12", None),
        ),
        ("gemma_scope_2", "resid_post/layer_7_width_16k", ("resid_post/layer_7_width_16k", None)),
        (
            "gemma_scope_2",
            "clt/width_262k/params_layer_3",
            ("clt/width_262k", "params_layer_3.safetensors"),
        ),
        ("circuit_tracer", "layer_3.safetensors", ("", "layer_3.safetensors")),
        ("circuit_tracer_clt_layer", "17", ("", "W_enc_17.safetensors")),
        (
            "goodfire",
            "Llama-3.1-8B-Instruct-SAE-l19.pth",
            ("", "Llama-3.1-8B-Instruct-SAE-l19.pth"),
        ),
        ("openai", "resid_post_mlp/autoencoders/8.pt", ("resid_post_mlp/autoencoders", "8.pt")),
    ],
)
def test_a_format_locates_an_sae_as_releases_state_its_path(
    name: str, path: str, expected: tuple[str, str | None]
) -> None:
    assert FORMATS[name].locate(path) == expected


def test_members_of_a_folder_are_told_by_names_alone() -> None:
    assert members(["cfg.json", "sae_weights.safetensors", "features.json", "x.pt"]) == {
        None: ("cfg.json", "features.json", "sae_weights.safetensors")
    }
    assert members(["cfg.json"]) == {None: ("cfg.json",)}  # it is to be one
    assert members(["cfg.json", "sae.safetensors"]) == {None: ("cfg.json", "sae.safetensors")}
    assert members(["config.json", "model.safetensors", "optimizer.pt", "README.md"]) == {}
    layers = ["layer_0.safetensors", "layer_1.safetensors", "config.yaml"]
    assert members(layers) == {
        "layer_0.safetensors": ("config.yaml", "layer_0.safetensors"),
        "layer_1.safetensors": ("config.yaml", "layer_1.safetensors"),
    }
    assert members(["a.pt", "a_cfg.json", "b.pt"]) == {"a.pt": ("a.pt", "a_cfg.json")}
    clt = ["W_enc_0.safetensors", "W_dec_0.safetensors", "W_enc_1.safetensors"]
    assert members(clt) == {"W_enc_0.safetensors": ("W_dec_0.safetensors", "W_enc_0.safetensors")}


@pytest.mark.parametrize("read", READERS)
def test_a_file_of_an_sae_stands_for_its_folder(tmp_path: Path, read: Any) -> None:
    native = write_folder(tmp_path / "native")
    assert read(native / "sae_weights.safetensors").cfg.d_sae == 40
    for case in (folders.gemma_scope(tmp_path), folders.gemma_scope_2(tmp_path)):
        assert read(case.weights).cfg.d_sae == folders.D_SAE
    single = folders.goodfire(tmp_path).path
    assert read(single.parent).cfg.hook_name == "blocks.19.hook_resid_post"
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(SAEFormatError, match="no SAE of a known format"):
        read(tmp_path / "notes.txt")


def test_features_recorded_beside_a_foreign_sae_belong_to_it(tmp_path: Path) -> None:
    case = folders.gemma_scope(tmp_path)
    before = folder_revision(case.path)
    (case.path / "features.json").write_text('{"version": 1, "l0": 12.5, "labels": {"3": "cats"}}')
    owned = read_sae_folder_owned(case.path)
    assert owned.features is not None
    assert owned.features.labels == {3: "cats"}
    assert owned.revision != before
