"""`saekit upload`: what it sends, prints, and with which exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.core.sae.folders import NOT_FINITE, write_folder
from tests.core.sae.hub_server import WRITER, Hub
from tests.core.sae.uploads import HOOK, recorded

from saekit_core.commands.upload import upload
from saekit_core.sae import folder_revision

# huggingface_hub sends LFS objects by a parameter that its HTTP client wants named otherwise.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")


def run(hub: Hub, *words: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, which gets huggingface_hub's settings from its environment."""
    program = "import sys; from saekit_core.commands.upload import upload as u; "
    return subprocess.run(
        [sys.executable, "-c", program + "sys.exit(u(sys.argv[1:]))", *words],
        env={
            **os.environ,
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": WRITER,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_folders_go_up_and_the_report_is_json(hub: Hub, tmp_path: Path) -> None:
    folder = recorded(tmp_path / "run")
    done = run(hub, f"small={folder}", f"={folder}", "--repo", "user/saes", "--private", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["private"] is hub.repos["user/saes"].private is True
    assert report["commit"] == hub.repos["user/saes"].branches["main"]
    assert [sae["spec"] for sae in report["saes"]] == [
        "hf://user/saes/small",
        "hf://user/saes",
    ]
    assert report["saes"][0]["revision"] == folder_revision(folder)
    assert report["saes"][0]["explained_variance"] == 0.8765


def test_people_see_what_went_where(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", WRITER)
    folder = recorded(tmp_path / "run")
    assert upload([str(folder), "--repo", "user/saes", "--branch", "v2"]) == 0
    shown = capsys.readouterr()
    assert f"hf://user/saes/{HOOK}@v2" in shown.out
    assert f"{hub.url}/user/saes (public), commit " in shown.out
    assert shown.err == ""


def test_a_refusal_is_one_line_and_exit_code_1(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", WRITER)
    folder = write_folder(tmp_path / "run")
    NOT_FINITE["NaN in W_enc"](folder)
    assert upload([f"a={folder}", "--repo", "user/saes"]) == 1
    assert capsys.readouterr() == (
        "",
        f"error: {folder}: would not load again: sae_weights.safetensors: W_enc: holds NaN or "
        "infinite values\n",
    )
    assert hub.requests == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["x=one", "two"], "two: give every folder a PATH= or none"),
        (["x=one", "x=two"], "x=two: another folder goes to x too"),
    ],
)
def test_paths_are_given_to_all_or_none_and_once(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert upload([*words, "--repo", "user/saes"]) == 1
    assert said in capsys.readouterr().err


def test_wrong_usage_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["x"], ["--repo", "user/saes"], ["x", "--repo", "u/r", "--public"]):
        with pytest.raises(SystemExit) as caught:
            upload(words)
        assert caught.value.code == 2
    assert "usage: saekit upload" in capsys.readouterr().err
