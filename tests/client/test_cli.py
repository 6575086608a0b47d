"""The `saekit` command against a real server: what it prints, writes, and with which exit code."""

import io
import json
import re
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.models import story

from saekit_client import cli
from saekit_client.cli import main

TEXT = "The cat sat on a mat and saw a red bird."


class Saekit:
    """Runs the command in this process."""

    def __init__(self, address: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.address = address
        self.capsys = capsys

    def __call__(self, *words: str, code: int = 0) -> str:
        """What it printed on stdout."""
        assert main([*words, "--address", self.address]) == code, self.capsys.readouterr().err
        self.shown = self.capsys.readouterr()
        return self.shown.out

    def json(self, *words: str) -> list[Any]:
        """The documents that it printed."""
        return [json.loads(line) for line in self(*words, "--json").splitlines()]


@pytest.fixture
def saekit(address: str, capsys: pytest.CaptureFixture[str]) -> Saekit:
    return Saekit(address, capsys)


def test_encode_shows_tokens_and_labelled_features(saekit: Saekit) -> None:
    shown = saekit("encode", TEXT, "--sae", "topk")
    assert "mat" in shown
    assert "#" in shown
    assert "1 of 1 inputs, SAE topk@" in shown


def test_encode_names_the_choice_where_there_is_one(saekit: Saekit) -> None:
    saekit("encode", TEXT, code=2)
    assert "choose one of heads, normed, topk" in " ".join(saekit.shown.err.split())


def test_encode_as_json_is_a_line_per_input(saekit: Saekit, tmp_path: Path) -> None:
    lines = ['"the cat"', '{"tokens": [5, 6, 7], "id": "seven"}', '{"text": "a mat", "id": "m"}']
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    results = saekit.json(
        "encode", "--file", str(tmp_path / "corpus.jsonl"), "--sae", "topk", "--top-k", "2"
    )
    assert [r["id"] for r in results] == ["", "seven", "m"]
    assert results[1]["tokens"]["ids"] == [5, 6, 7]
    encoding = results[1]["encodings"][0]
    assert encoding["activations"]["shape"] == [3, 96]
    assert len(encoding["activations"]["values"]) <= 6


def test_a_bad_input_fails_alone_and_sets_the_exit_code(saekit: Saekit) -> None:
    out = saekit("encode", "the cat", "", "a mat", "--sae", "topk", "--json", code=1)
    lines = [json.loads(line) for line in out.splitlines()]
    assert [("error" in line) for line in lines] == [False, True, False]
    assert "input 1: INVALID_ARGUMENT" in saekit.shown.err


def test_many_texts_from_stdin(saekit: Saekit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(story(5, n) for n in range(12))))
    assert "12 of 12 inputs" in saekit("encode", "--file", "-", "--sae", "topk")


@pytest.mark.parametrize("sae", ["topk", "normed", "heads"])
def test_what_encode_writes_decodes_with_its_explained_variance(
    saekit: Saekit, tmp_path: Path, sae: str
) -> None:
    archive, out = tmp_path / "features.npz", tmp_path / "decoded.npz"
    saekit("encode", TEXT, story(6), "--sae", sae, "--activations", "--out", str(archive))
    [report] = saekit.json("decode", str(archive), "--out", str(out))
    with np.load(archive) as kept, np.load(out) as decoded:
        x, plain = kept["activations"], ~kept["row_special"]
        error = np.square(x - decoded["activations"])[plain].sum(dtype=np.float64)
        centred = x[plain].astype(np.float64) - x[plain].mean(axis=0, dtype=np.float64)
        assert report["explained_variance"] == pytest.approx(1 - error / np.square(centred).sum())
        assert report["rows"] == len(x) == len(kept["row_input"])
        assert not plain.all()
    assert "explained variance" in saekit("decode", str(archive))


def test_decode_refuses_what_encode_did_not_write(saekit: Saekit, tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    for name in ("other.npz", "missing.npz"):
        saekit("decode", str(tmp_path / name), code=2)
        assert name in saekit.shown.err.replace("\n", "").replace("│", "").replace(" ", "")


def test_run_shows_the_losses(saekit: Saekit) -> None:
    [result] = saekit.json("run", TEXT, "--splice", "topk", "--error-term", "--top", "3")
    assert result["comparison"]["delta_loss"] == pytest.approx(0.0, abs=1e-6)
    assert len(result["top_logits"]["ids"][0]) == 3
    shown = saekit("run", TEXT, "--splice", "topk", "--edit", "topk:3 +4max", "--no-compare")
    assert "next tokens" in shown
    assert "%" in shown


def test_steer_streams_text(saekit: Saekit) -> None:
    words = ["--temperature", "0", "--max-new-tokens", "6", "--edit", "topk:3 +3max on generated"]
    text = saekit("steer", "The cat", *words)
    assert text.startswith("The cat")
    events = saekit.json("steer", "The cat", *words, "--watch", "topk:3,5")
    assert [e["event"] for e in events] == ["start", *["token"] * (len(events) - 2), "finish"]
    assert "".join(e.get("text", "") for e in events) == text.removeprefix("The cat").rstrip("\n")
    assert len(events[1]["watched"]) == 2


def test_steer_with_a_baseline_shows_both(saekit: Saekit) -> None:
    shown = saekit("steer", "The cat", "--edit", "topk:3 +9max", "--baseline", "-m", "4")
    assert "baseline" in shown
    assert "steered" in shown


def test_the_registry_commands(saekit: Saekit) -> None:
    listed = saekit.json("saes", "list")[0]
    assert [s["sae_id"] for s in listed] == ["heads", "normed", "topk"]
    assert "topk (k=8)" in saekit("saes", "list", "topk")
    assert "hook_resid_pre" in saekit("saes", "show", "topk")
    assert saekit.json("saes", "load", "topk", "--sae-id", "cli")[0]["sae"]["sae_id"] == "cli"
    saekit("saes", "load", "topk", "--sae-id", "cli", code=1)
    assert "ALREADY_EXISTS" in saekit.shown.err
    assert "unloaded cli@" in saekit("saes", "unload", "cli")


def test_pages_on_neuronpedia_are_shown_where_there_are_some(saekit: Saekit) -> None:
    page = "https://neuronpedia.org/tiny/1-res-tst"
    shown = saekit("saes", "show", "topk")
    assert "tiny/1-res-tst" in shown
    assert page in shown
    assert saekit.json("saes", "show", "topk")[0]["info"]["neuronpedia_url"] == page
    assert f"{page}/3" in saekit("features", "show", "topk", "3")
    assert f"{page}/3" in saekit("features", "similar", "topk", "3")
    [found] = saekit.json("features", "show", "topk", "3", "5")
    assert [f["neuronpedia_url"] for f in found["features"]] == [f"{page}/3", f"{page}/5"]
    for words in (("saes", "show", "normed"), ("features", "show", "normed", "3")):
        assert "https:" not in saekit(*words)


def test_a_terminal_gets_links(monkeypatch: pytest.MonkeyPatch, saekit: Saekit) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    for words in (("saes", "list", "topk"), ("saes", "show", "topk")):
        shown = saekit(*words)
        assert re.search(r"\x1b]8;id=\d+;https://neuronpedia\.org/tiny/1-res-tst\x1b", shown)
    shown = saekit("features", "show", "topk", "3")
    assert re.search(r"\x1b]8;id=\d+;https://neuronpedia\.org/tiny/1-res-tst/3\x1b", shown)


def test_the_feature_commands(saekit: Saekit) -> None:
    assert "#3 dragons" in saekit("features", "show", "topk", "--search", "dragon")
    shown = saekit("features", "show", "topk", "3")
    assert "promotes" in shown
    assert "a dragon" in shown
    near = saekit.json("features", "similar", "topk", "3", "-n", "4")[0]
    assert len(near["features"][0]["neighbours"]) == 4
    saekit("features", "show", "topk", code=2)


def test_tokenize(saekit: Saekit) -> None:
    assert saekit.json("tokenize", "the cat", "--no-bos")[0]["has_bos"] is False
    assert "position" in saekit("tokenize", "the cat")


def test_a_refusal_is_one_line_that_names_the_field(saekit: Saekit) -> None:
    saekit("encode", TEXT, "--sae", "nothing", code=1)
    [line] = saekit.shown.err.splitlines()
    assert line.startswith("saekit: ")
    assert "nothing" in line
    saekit("run", TEXT, "--edit", "topk:5000 ablate", code=1)
    [line] = saekit.shown.err.splitlines()
    assert "edits[0].feature.index" in line


@pytest.mark.parametrize(
    "words",
    [
        ["encode"],
        ["encode", "x", "--top-k", "0"],
        ["encode", "x", "--activations"],
        ["encode", "--file", "no-such-file.txt"],
        ["steer", "x", "--edit", "nonsense"],
        ["steer", "x", "--when", "topk:1 > 2 stop now"],
        ["run", "x", "--no-such-option"],
        ["no-such-command"],
    ],
)
def test_wrong_usage_is_exit_code_2(
    words: list[str], address: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setenv("SAEKIT_ADDRESS", address)
    assert main(words) == 2
    assert capsys.readouterr().err


def test_no_server_is_one_line_and_exit_code_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saekit_client.channel.Timeouts.__init__.__defaults__", (0.3, 1, 1, 1))
    assert main(["saes", "list", "--address", "localhost:1"]) == 1
    assert capsys.readouterr().err == (
        "saekit: UNAVAILABLE: no server answers at localhost:1 within 0.3 s\n"
    )


@pytest.mark.parametrize("command", ["encode", "decode", "run", "steer", "tokenize", "demo"])
def test_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert f"saekit {command}" in capsys.readouterr().out


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for command in ("encode", "saes", "features", "serve", "train", "demo"):
        assert f" {command} " in shown


def test_a_command_of_a_missing_extra_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "pretend_extra.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(tmp_path)
    point = EntryPoint("shine", "pretend_extra:shine", "saekit.commands")
    monkeypatch.setattr(cli, "entry_points", lambda group: [point])  # noqa: ARG005
    assert main(["shine", "--brightly"]) == 1
    assert capsys.readouterr().err == (
        "saekit: shine needs no_such_library, which is missing: "
        "pip install 'saekit[pretend_extra]'\n"
    )


def test_an_added_command_gets_its_arguments_and_gives_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "pretend_command.py").write_text(
        "def shine(argv):\n    print(argv)\n    return 7\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    point = EntryPoint("shine", "pretend_command:shine", "saekit.commands")
    monkeypatch.setattr(cli, "entry_points", lambda group: [point])  # noqa: ARG005
    assert main(["shine", "--help", "x"]) == 7
    assert capsys.readouterr().out == "['--help', 'x']\n"
