"""Uploads to a stand-in of the Hub over a real socket, and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import constants
from tests.core.sae.folders import write_folder
from tests.core.sae.hub_server import WRITER, Hub
from tests.core.sae.reference import KINDS
from tests.core.sae.uploads import HOOK, at, recorded, uploaded

from saekit_core.sae import (
    SAE,
    Origin,
    SAEUploadError,
    folder_revision,
    read_features_file,
    upload_saes_to_huggingface,
)
from saekit_core.sae.pretrained import download_sae

# huggingface_hub sends LFS objects by a parameter that its HTTP client wants named otherwise.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")


@pytest.mark.parametrize("kind", KINDS)
def test_a_list_goes_up_and_comes_back_bit_for_bit(hub: Hub, kind: str) -> None:
    sae = at(HOOK, kind)
    done = upload_saes_to_huggingface(
        saes=[sae], repo_id="user/saes", token=WRITER, show_progress=False
    )
    again, cfg_dict, _ = SAE.from_pretrained(release="user/saes", sae_id=HOOK, device="cpu")
    assert cfg_dict["hook_name"] == HOOK
    assert again.weights().keys() == sae.weights().keys()
    for name, tensor in sae.weights().items():
        assert torch.equal(again.weights()[name], tensor)
    assert done.commit == hub.repos["user/saes"].branches["main"]
    assert done.url == f"{hub.url}/user/saes"
    assert not done.private


def test_folders_go_up_as_they_are_without_what_is_not_for_inference(
    hub: Hub, tmp_path: Path
) -> None:
    folder = recorded(tmp_path / "run")
    (done,) = upload_saes_to_huggingface(
        {"layer/8": folder}, "user/saes", token=WRITER, show_progress=False
    ).saes
    names = {
        "cfg.json",
        "sae_weights.safetensors",
        "sparsity.safetensors",
        "features.json",
        "features.safetensors",
    }
    assert set(done.files) == names
    files = uploaded(hub)
    assert files.keys() - {".gitattributes", "README.md"} == {f"layer/8/{name}" for name in names}
    for name in names:
        assert files[f"layer/8/{name}"] == (folder / name).read_bytes()
    back = download_sae(Origin(repo="user/saes", path="layer/8"))
    assert folder_revision(back) == folder_revision(folder) == done.revision
    features = read_features_file(back)
    assert features is not None
    assert features.labels == {3: "dragons"}
    sparsity = SAE.from_pretrained("user/saes", "layer/8").sparsity
    assert sparsity is not None
    assert torch.equal(sparsity, torch.linspace(-10, 0, 40))


def test_several_saes_are_one_commit_made_after_all_files_are_there(
    hub: Hub, tmp_path: Path
) -> None:
    saes = {
        "a": at(HOOK),
        "b": recorded(tmp_path / "b"),
        "deep/c": str(write_folder(tmp_path / "c")),
    }
    upload_saes_to_huggingface(saes, "user/saes", token=WRITER, show_progress=False)
    assert hub.repos["user/saes"].messages == ["initial commit", "Upload 3 SAEs"]
    paths = [request.path for request in hub.requests]
    assert [path for path in paths if "/commit/" in path] == paths[-1:]
    for path in saes:
        assert SAE.from_pretrained("user/saes", path).cfg.d_sae == 40


def test_the_root_of_a_repository_may_be_an_sae(hub: Hub) -> None:
    upload_saes_to_huggingface({"": at(HOOK)}, "user/saes", token=WRITER, show_progress=False)
    assert {"cfg.json", "README.md"} < uploaded(hub).keys()
    assert SAE.from_pretrained("user/saes").cfg.hook_name == HOOK


def test_the_parameters_of_saelens_mean_the_same(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("user/saes")
    monkeypatch.setenv("HF_TOKEN", WRITER)
    upload_saes_to_huggingface({"x": at(HOOK)}, "user/saes", "v2", False, False)
    upload_saes_to_huggingface(
        saes_dict={"y": at(HOOK)}, hf_repo_id="user/saes", hf_revision="v2", show_progress=False
    )
    assert "x/cfg.json" not in uploaded(hub)
    assert {"x/cfg.json", "y/cfg.json", "README.md"} < uploaded(hub, branch="v2").keys()
    assert hub.repos["user/saes"].messages == ["initial commit", "Upload x", "Upload y"]
    assert SAE.from_pretrained("user/saes", "x", revision="v2").cfg.hook_name == HOOK


@pytest.mark.parametrize("private", [False, True])
def test_a_new_repository_is_private_if_asked(hub: Hub, private: bool) -> None:
    done = upload_saes_to_huggingface(
        [at(HOOK)], "user/saes", token=WRITER, private=private, show_progress=False
    )
    assert hub.repos["user/saes"].private is done.private is private


def test_nothing_meant_to_be_private_goes_to_a_public_repository(hub: Hub) -> None:
    hub.add("user/saes")
    with pytest.raises(SAEUploadError, match="exists and is public"):
        upload_saes_to_huggingface(
            [at(HOOK)], "user/saes", token=WRITER, private=True, show_progress=False
        )
    assert {request.method for request in hub.requests} == {"GET"}
    assert uploaded(hub).keys() == {".gitattributes"}


def test_every_request_to_the_hub_carries_the_token(hub: Hub) -> None:
    upload_saes_to_huggingface([at(HOOK)], "user/saes", token=WRITER, show_progress=False)
    # LFS objects go to a storage whose addresses are signed.
    assert {r.token for r in hub.requests if r.method != "PUT"} == {WRITER}


def test_the_token_of_the_environment_or_of_a_login_is_used(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", WRITER)
    upload_saes_to_huggingface([at(HOOK)], "user/one", show_progress=False)
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "hf").mkdir()
    Path(constants.HF_TOKEN_PATH).write_text(WRITER)
    upload_saes_to_huggingface([at(HOOK)], "user/two", show_progress=False)
    assert hub.repos.keys() == {"user/one", "user/two"}


def test_a_second_upload_replaces_the_sae_and_leaves_the_others(hub: Hub, tmp_path: Path) -> None:
    folders = {"a": recorded(tmp_path / "a"), "b": recorded(tmp_path / "b")}
    upload_saes_to_huggingface(folders, "user/saes", token=WRITER, show_progress=False)
    other = at(HOOK, "topk")
    upload_saes_to_huggingface({"a": other}, "user/saes", token=WRITER, show_progress=False)
    again = SAE.from_pretrained("user/saes", "a")
    assert torch.equal(again.W_enc, other.W_enc)
    # What was recorded of the old SAE's features would be wrong of the new one's.
    assert {name for name in uploaded(hub) if name.startswith("a/")} == {
        "a/cfg.json",
        "a/sae_weights.safetensors",
    }
    assert folder_revision(download_sae(Origin(repo="user/saes", path="b"))) == folder_revision(
        folders["b"]
    )


def test_the_card_tells_what_is_there_and_how_to_load_it(hub: Hub, tmp_path: Path) -> None:
    saes = {"layer/8": recorded(tmp_path / "8"), "odd": at("blocks.1|x\n## <b>", "topk")}
    upload_saes_to_huggingface(saes, "user/saes", token=WRITER, show_progress=False)
    card = uploaded(hub)["README.md"].decode()
    _, header, text = card.split("---\n", 2)
    metadata = yaml.safe_load(header)
    assert metadata["library_name"] == "saekit"
    assert {"saelens", "sparse-autoencoder"} <= set(metadata["tags"])
    assert (
        "| [`layer/8`](https://neuronpedia.org/gpt2-small/8-res-jb) | gpt2-small | "
        f"{HOOK} | jumprelu | 12 | 40 | float32 | 12.3 | 0.876 |"
    ) in text
    assert "| `odd` | – | blocks.1\\|x ## &lt;b> | topk | 12 | 40 | float32 | – | – |" in text
    assert text.count('SAE.from_pretrained("user/saes", "layer/8")') == 2
    assert "from sae_lens import SAE" in text
    assert "--sae hf://user/saes/layer/8" in text


def test_a_card_that_is_there_stays_unless_asked(hub: Hub) -> None:
    first = {"a": at(HOOK)}
    upload_saes_to_huggingface(first, "user/saes", token=WRITER, show_progress=False)
    hub.repos["user/saes"].files()["README.md"] = b"mine"
    upload_saes_to_huggingface({"b": at(HOOK)}, "user/saes", token=WRITER, show_progress=False)
    assert uploaded(hub)["README.md"] == b"mine"
    upload_saes_to_huggingface(
        {"b": at(HOOK)}, "user/saes", token=WRITER, show_progress=False, replace_readme=True
    )
    assert "Also in this repository: `a`." in uploaded(hub)["README.md"].decode()


def test_a_repository_may_do_without_a_card(hub: Hub) -> None:
    upload_saes_to_huggingface(
        [at(HOOK)], "user/saes", token=WRITER, add_default_readme=False, show_progress=False
    )
    assert "README.md" not in uploaded(hub)


@pytest.mark.usefixtures("hub")
def test_progress_is_shown_on_stderr_unless_told_otherwise(
    capsys: pytest.CaptureFixture[str],
) -> None:
    upload_saes_to_huggingface({"a": at(HOOK)}, "user/saes", token=WRITER)
    shown = capsys.readouterr()
    assert "Checking SAEs" in shown.err
    assert "sae_weights.safetensors" in shown.err
    upload_saes_to_huggingface({"b": at(HOOK)}, "user/saes", token=WRITER, show_progress=False)
    assert capsys.readouterr() == ("", "")


def test_the_trainer_has_it_too() -> None:
    import saekit_trainer

    assert saekit_trainer.upload_saes_to_huggingface is upload_saes_to_huggingface
