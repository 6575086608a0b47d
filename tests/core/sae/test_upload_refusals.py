"""Uploads that are refused: what is said, and that nothing is sent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from tests.core.sae.folders import BROKEN, NOT_FINITE, edit_cfg, edit_weights, write_folder
from tests.core.sae.hub_server import READER, WRITER, Hub
from tests.core.sae.reference import random_sae
from tests.core.sae.uploads import HOOK, at, recorded, uploaded

from saekit_core.sae import SAEError, SAEFormatError, SAEUploadError, upload_saes_to_huggingface

# huggingface_hub sends LFS objects by a parameter that its HTTP client wants named otherwise.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")


def refused(kind: type[SAEError], saes: object, repo_id: str = "user/saes", **options: str) -> str:
    """The message with which an upload is refused."""
    with pytest.raises(kind) as caught:
        upload_saes_to_huggingface(
            saes,  # type: ignore[arg-type]
            repo_id,
            **{"token": WRITER, "show_progress": False, **options},  # type: ignore[arg-type]
        )
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("fault", sorted(BROKEN | {k: (v, "") for k, v in NOT_FINITE.items()}))
def test_a_folder_that_would_not_load_again_sends_nothing(
    hub: Hub, tmp_path: Path, fault: str
) -> None:
    sound, broken = write_folder(tmp_path / "sound"), write_folder(tmp_path / "broken")
    (BROKEN[fault][0] if fault in BROKEN else NOT_FINITE[fault])(broken)
    message = refused(SAEFormatError, {"sound": sound, "broken": broken})
    assert f"{broken}: would not load again: " in message
    assert hub.requests == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda f: (f / "features.json").write_text('{"version": 1, "labels": {"40": "x"}}'),
        lambda f: (f / "sparsity.safetensors").write_bytes(b""),
        lambda f: save_file(
            {"sparsity": torch.full((40,), -torch.inf)}, f / "sparsity.safetensors"
        ),
        lambda f: edit_cfg(f, d_sae=41),
    ],
)
def test_every_file_of_a_folder_is_checked(
    hub: Hub, tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    folder = recorded(tmp_path / "run")
    spoil(folder)
    assert "would not load again" in refused(SAEFormatError, {"a": folder})
    assert hub.requests == []


def test_an_sae_in_memory_with_values_that_are_not_finite_sends_nothing(hub: Hub) -> None:
    sae = at(HOOK)
    sae.W_dec.data[3, 4] = float("nan")
    assert "W_dec: holds NaN" in refused(SAEFormatError, [sae])
    assert hub.requests == []


def test_a_folder_that_changes_meanwhile_is_not_committed(hub: Hub, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "run")
    hub.on_object = lambda: edit_weights(folder, b_dec=torch.ones(12))
    assert "changed while it was uploaded" in refused(SAEUploadError, {"a": folder})
    assert uploaded(hub).keys() == {".gitattributes"}


def test_a_branch_that_moves_meanwhile_is_not_overwritten(hub: Hub) -> None:
    repo = hub.add("user/saes")
    hub.on_object = lambda: repo.commit("main", {"theirs": b""}, "another")
    assert "changed the repository meanwhile" in refused(SAEUploadError, [at(HOOK)])
    assert uploaded(hub).keys() == {"theirs"}


@pytest.mark.parametrize(
    ("saes", "said"),
    [
        (list, "saes: there are none"),
        (lambda: at(HOOK), "saes: expected a list"),
        (lambda: [7], r"saes[0]: expected an SAE or a folder, got int"),
        (lambda: [at(HOOK), at("x"), at(HOOK)], f"saes[2]: at {HOOK}, as saes[0]"),
        (lambda: [random_sae("standard")], "saes[0]: has no hook_name"),
        (lambda: {"../x": at(HOOK)}, "sae_id: 'user/saes/../x' is none"),
        (lambda: {"x/": at(HOOK)}, "sae_id: 'user/saes/x/' is none"),
        (lambda: {"x": "/no/such/folder"}, "/no/such/folder: would not load again"),
        (lambda: ["/no/such/folder"], "/no/such/folder: no such folder"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    hub: Hub, saes: Callable[[], object], said: str
) -> None:
    assert said in refused(SAEError, saes())
    assert hub.requests == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"repo_id": "saes"}, "repo_id: 'saes' is none; expected user/repo"),
        ({"repo_id": "user/a--b"}, "user/a--b: Cannot have -- or .. in repo_id"),
        ({"hf_revision": "no branch"}, "'no branch' is no revision"),
        ({"hf_revision": "a", "revision": "b"}, "revision: give it or hf_revision, not both"),
        ({"replace_readme": True, "add_default_readme": False}, "replace_readme: needs"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    hub: Hub, options: dict[str, str], said: str
) -> None:
    assert said in refused(SAEError, [at(HOOK)], **options)
    assert hub.requests == []


def test_names_are_given_once(hub: Hub) -> None:
    for options in ({}, {"saes_dict": [at(HOOK)], "saes": [at(HOOK)]}):
        with pytest.raises(SAEError, match="saes: "):
            upload_saes_to_huggingface(repo_id="user/saes", **options)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("token", "repo_id", "said"),
    [
        ("hf_made_up", "user/saes", "the Hub does not know the token; get one"),
        (READER, "user/saes", "the token may not write for user; get one that may at"),
        (READER, "user/new", "the token may not write for user; get one that may at"),
        (WRITER, "other/new", "the token may not write for other; get one that may at"),
    ],
)
def test_a_refusal_says_in_a_line_what_to_do(hub: Hub, token: str, repo_id: str, said: str) -> None:
    hub.add("user/saes")
    message = refused(SAEUploadError, [at(HOOK)], repo_id, token=token)
    assert message.startswith(f"{repo_id}: {said}")
    assert token not in message
    assert uploaded(hub).keys() == {".gitattributes"}


def test_without_a_token_nothing_is_asked(hub: Hub) -> None:
    with pytest.raises(SAEUploadError, match="needs a token with write access: run `hf auth"):
        upload_saes_to_huggingface([at(HOOK)], "user/saes")
    assert hub.requests == []


def test_offline_mode_is_honoured(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "unset HF_HUB_OFFLINE" in refused(SAEUploadError, [at(HOOK)])
    assert hub.requests == []


@pytest.mark.usefixtures("hub")
def test_no_network_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    message = refused(SAEUploadError, [at(HOOK)])
    assert "http://127.0.0.1:9 cannot be reached" in message
    assert "check the network" in message
