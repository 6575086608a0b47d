"""Pretrained SAEs: of public releases, of Hugging Face repositories, and of local folders."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from tests.core.sae.folders import write_folder
from tests.core.sae.hub_server import READER, Hub
from tests.core.sae.reference import random_activations

from saekit_core.sae import SAE, Origin, SAEError, SAENotFoundError
from saekit_core.sae.pretrained import download_sae

RELEASE, SAE_ID = "gpt2-small-res-jb", "blocks.8.hook_resid_pre"
REPO = "jbloom/GPT2-Small-SAEs-Reformatted"


def add_release(hub: Hub, folder: Path) -> Path:
    """The repository of gpt2-small-res-jb, with a small SAE for one of its own."""
    sae = write_folder(folder / SAE_ID)
    sparsity = torch.linspace(-10, -1, 40)
    save_file({"sparsity": sparsity}, sae / "sparsity.safetensors")
    (folder / "README.md").write_text("not asked for")
    write_folder(folder / "blocks.9.hook_resid_pre")
    hub.add(REPO, folder)
    return sae


def test_a_release_loads_by_name_and_id(hub: Hub, tmp_path: Path) -> None:
    folder = add_release(hub, tmp_path / "repo")
    x = random_activations(2, 12).float()
    sae = SAE.from_pretrained(RELEASE, SAE_ID, device="cpu")
    assert torch.equal(sae(x), SAE.load_from_disk(folder)(x))
    assert sae.cfg.metadata.neuronpedia_id == "gpt2-small/8-res-jb"
    assert sae.cfg.model_from_pretrained_kwargs == {"center_writing_weights": True}


def test_it_unpacks_as_in_saelens_5_with_real_values(hub: Hub, tmp_path: Path) -> None:
    add_release(hub, tmp_path / "repo")
    sae, cfg_dict, sparsity = SAE.from_pretrained(
        release="gpt2-small-res-jb", sae_id="blocks.8.hook_resid_pre", device="cpu"
    )
    assert cfg_dict["d_sae"] == sae.cfg.d_sae == 40
    assert cfg_dict["neuronpedia_id"] == "gpt2-small/8-res-jb"
    assert cfg_dict["model_from_pretrained_kwargs"] == {"center_writing_weights": True}
    assert sparsity is not None
    assert torch.equal(sparsity, torch.linspace(-10, -1, 40))
    again = SAE.from_pretrained_with_cfg_and_sparsity(RELEASE, SAE_ID, "cpu")
    assert isinstance(again, tuple)
    assert again[1] == cfg_dict
    assert torch.equal(again[2], sparsity)


def test_only_the_files_of_the_sae_are_fetched_and_only_once(hub: Hub, tmp_path: Path) -> None:
    add_release(hub, tmp_path / "repo")
    SAE.from_pretrained(RELEASE, SAE_ID)
    fetched = [r.path.partition("/resolve/")[2] for r in hub.requests if r.method == "GET"]
    fetched = [path.partition("/")[2] for path in fetched if path]
    names = ("cfg.json", "sae_weights.safetensors", "sparsity.safetensors")
    assert sorted(fetched) == [f"{SAE_ID}/{name}" for name in names]
    # After the first file they come from its commit, wherever the branch goes meanwhile.
    asked = [r.path.partition("/resolve/")[2].partition("/")[0] for r in hub.requests]
    commit = hub.repos[REPO].branches["main"]
    assert set(asked) == {"", "main", commit}
    assert len([revision for revision in asked if revision == "main"]) == 2  # HEAD and GET
    hub.requests.clear()
    SAE.from_pretrained(RELEASE, SAE_ID)
    assert not [r for r in hub.requests if r.method == "GET" and "/resolve/" in r.path]
    SAE.from_pretrained(RELEASE, SAE_ID, force_download=True)
    assert len([r for r in hub.requests if r.method == "GET" and "/resolve/" in r.path]) == 3


def test_a_repository_loads_by_path(hub: Hub, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "repo" / "path" / "to" / "sae")
    hub.add("username/repo-name", tmp_path / "repo")
    x = random_activations(2, 12).float()
    sae, cfg_dict, sparsity = SAE.from_pretrained(
        release="username/repo-name", sae_id="path/to/sae", device="cpu"
    )
    assert torch.equal(sae(x), SAE.load_from_disk(folder)(x))
    assert (cfg_dict["d_in"], sparsity) == (12, None)


def test_a_repository_that_is_a_release_gets_its_facts(hub: Hub, tmp_path: Path) -> None:
    add_release(hub, tmp_path / "repo")
    by_repo = SAE.from_pretrained(REPO, SAE_ID)
    assert by_repo.cfg == SAE.from_pretrained(RELEASE, SAE_ID).cfg


def test_a_revision_pins(hub: Hub, tmp_path: Path) -> None:
    old = write_folder(tmp_path / "old" / SAE_ID)
    repo = hub.add(REPO, tmp_path / "old")
    first = repo.branches["main"]
    new = write_folder(tmp_path / "new" / SAE_ID, seed=5)
    repo.commit("main", {f"{SAE_ID}/{p.name}": p.read_bytes() for p in new.iterdir()}, "retrained")
    x = random_activations(2, 12).float()
    pinned = SAE.from_pretrained(RELEASE, SAE_ID, revision=first)
    assert torch.equal(pinned(x), SAE.load_from_disk(old)(x))
    newest = SAE.from_pretrained(RELEASE, SAE_ID)
    assert torch.equal(newest(x), SAE.load_from_disk(new)(x))
    with pytest.raises(SAENotFoundError, match="no such revision"):
        SAE.from_pretrained(RELEASE, SAE_ID, revision="v9")


def test_offline_the_cache_is_enough(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_release(hub, tmp_path / "repo")
    online, _, sparsity = SAE.from_pretrained(RELEASE, SAE_ID)
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    offline, _, again = SAE.from_pretrained(RELEASE, SAE_ID)
    assert offline.cfg == online.cfg
    assert torch.equal(again, sparsity)
    assert hub.requests == []
    with pytest.raises(SAENotFoundError, match="not in the local Hugging Face cache"):
        SAE.from_pretrained(RELEASE, "blocks.9.hook_resid_pre")


def test_half_a_download_is_no_sae(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_release(hub, tmp_path / "repo")
    SAE.from_pretrained(RELEASE, SAE_ID)
    (weights,) = (tmp_path / "hf").rglob("sae_weights.safetensors")
    weights.unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SAENotFoundError, match="not in the local Hugging Face cache"):
        SAE.from_pretrained(RELEASE, SAE_ID)


def test_a_private_repository_needs_the_token(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "repo" / "x")
    hub.add("user/private", tmp_path / "repo", private=True)
    with pytest.raises(SAENotFoundError, match=r"needs a token \(HF_TOKEN\)"):
        SAE.from_pretrained("user/private", "x")
    monkeypatch.setenv("HF_TOKEN", READER)
    assert SAE.from_pretrained("user/private", "x").cfg.d_sae == 40
    assert {request.token for request in hub.requests[-3:]} == {READER}


def test_unknown_names_get_near_ones() -> None:
    with pytest.raises(SAENotFoundError, match=r"near: gpt2-small-res-jb,") as caught:
        SAE.from_pretrained("gpt2-small-res-bj", SAE_ID)
    assert caught.value.field == "release"
    with pytest.raises(SAENotFoundError, match=r"near: blocks\.8\.hook_resid_pre") as caught:
        SAE.from_pretrained(RELEASE, "blocks.8.hook_resid_pro")
    assert caught.value.field == "sae_id"
    assert "lists all 13" in str(caught.value)
    with pytest.raises(SAENotFoundError, match="no sae_id given; it has blocks"):
        SAE.from_pretrained(RELEASE)
    with pytest.raises(SAENotFoundError, match="the path in a repository is the sae_id"):
        SAE.from_pretrained("user/repo/layer/3")
    with pytest.raises(SAENotFoundError) as caught:
        SAE.from_pretrained("/no/such/folder")
    assert "neither a local folder nor" in str(caught.value)


def test_a_place_without_an_sae_says_what_is_there(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    (folder / "docs").mkdir(parents=True)
    (folder / "docs" / "notes.txt").write_text("nothing")
    hub.add("user/repo", folder)
    with pytest.raises(SAENotFoundError, match="no SAE of any known format there"):
        SAE.from_pretrained("user/repo", "docs")
    with pytest.raises(SAENotFoundError, match="no such folder or file"):
        SAE.from_pretrained("user/repo", "elsewhere")
    with pytest.raises(SAENotFoundError, match="no SAE of saelens format"):
        download_sae(Origin(format="saelens", repo="user/repo", path="docs"))


def test_a_local_folder_loads_by_release_and_id(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "release" / "layer" / "3")
    x = random_activations(2, 12).float()
    sae, cfg_dict, sparsity = SAE.from_pretrained(str(tmp_path / "release"), "layer/3")
    assert torch.equal(sae(x), SAE.load_from_disk(str(folder), device="cpu")(x))
    assert cfg_dict["d_sae"] == 40
    assert sparsity is None
    assert torch.equal(SAE.from_pretrained(str(folder))(x), sae(x))
    with pytest.raises(SAEError, match="is local and has none"):
        SAE.from_pretrained(str(folder), revision="main")


def test_dtype_and_folding_are_honoured(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "sae")
    half = SAE.from_pretrained(str(folder), "", "cpu", "bfloat16")
    assert half.dtype == torch.bfloat16
    folded = SAE.from_pretrained(str(folder), fold_W_dec_norm=True)
    assert torch.allclose(folded.W_dec.norm(dim=1), torch.ones(40), atol=1e-5)


def test_an_id_that_leaves_the_repository_is_refused() -> None:
    for path in ("../x", "a/../../x", "/x", "a//b"):
        with pytest.raises(SAEError) as caught:
            SAE.from_pretrained("user/repo", path)
        assert caught.value.field == "sae_id"


def test_without_network_a_missing_file_gives_one_line() -> None:
    # Tests run with HF_HUB_OFFLINE=1.
    with pytest.raises(SAENotFoundError) as caught:
        SAE.from_pretrained("user/repo", "layer/3", revision="v1")
    message = str(caught.value)
    assert message.startswith("hf://user/repo/layer/3@v1: not in the local Hugging Face cache")
    assert "\n" not in message


def test_an_unreachable_hub_gives_one_line(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENDPOINT", "HUGGINGFACE_CO_URL_TEMPLATE"):
        dead = getattr(constants, name).replace(hub.url, "http://127.0.0.1:9")
        monkeypatch.setattr(constants, name, dead)
    with pytest.raises(SAENotFoundError, match="the network cannot be reached") as caught:
        SAE.from_pretrained(RELEASE, SAE_ID)
    assert "\n" not in str(caught.value)


def test_a_repository_is_downloaded_once_and_then_found_in_the_cache(tmp_path: Path) -> None:
    """With the environment that users set, in a process of its own."""
    write_folder(tmp_path / "repo" / "layer" / "3")
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    script = Path(__file__).with_name("hub_stand_in.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "repo")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "all held"
