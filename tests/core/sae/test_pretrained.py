"""Pretrained SAEs from a local folder and from a Hugging Face repository."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.core.sae.folders import write_folder
from tests.core.sae.reference import random_activations

from saekit_core.sae import SAE, SAEError, SAENotFoundError


def test_a_local_folder_loads_by_release_and_id(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "release" / "layer" / "3")
    x = random_activations(2, 12).float()
    sae, cfg_dict, sparsity = SAE.from_pretrained(str(tmp_path / "release"), "layer/3")
    assert torch.equal(sae(x), SAE.load_from_disk(folder)(x))
    assert cfg_dict["d_sae"] == 40
    assert sparsity is None
    assert torch.equal(SAE.from_pretrained(str(folder))(x), sae(x))


def test_what_is_neither_a_folder_nor_a_repository_is_not_found() -> None:
    with pytest.raises(SAENotFoundError, match="neither a local folder nor"):
        SAE.from_pretrained("no-such-release", "x")


def test_an_id_that_leaves_the_repository_is_refused() -> None:
    with pytest.raises(SAEError) as caught:
        SAE.from_pretrained("user/repo", "../x")
    assert caught.value.field == "sae_id"


def test_without_network_a_missing_file_gives_one_line() -> None:
    # Tests run with HF_HUB_OFFLINE=1.
    with pytest.raises(SAENotFoundError) as caught:
        SAE.from_pretrained("user/repo", "layer/3", revision="v1")
    message = str(caught.value)
    assert message.startswith("hf://user/repo/layer/3@v1: layer/3/cfg.json is not in the local")
    assert "\n" not in message


def test_a_repository_is_downloaded_once_and_then_found_in_the_cache(tmp_path: Path) -> None:
    """Against a small stand-in of the Hub's HTTP interface, in a process of its own."""
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
