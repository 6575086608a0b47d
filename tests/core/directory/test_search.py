"""Words find SAEs: in any order, numbers as a whole, the best first."""

import json
import subprocess
import sys

import pytest

from saekit_client.cli import main
from saekit_core.directory import Entry, public_releases
from saekit_core.directory.search import near, search


def found(text: str) -> list[Entry]:
    return search(public_releases().values(), text)


def test_a_layer_is_that_layer_only() -> None:
    entries = found("gemma layer 12")
    assert len(entries) > 100
    assert {entry.layer for entry in entries} == {12}
    assert all("gemma" in f"{entry.spec} {entry.model}".lower() for entry in entries)
    assert entries == found("layer=12 Gemma") == found("gemma layer12")
    assert found("gemma layer 120") == []
    assert found("gemma layer 12 layer 13") == []


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("gpt2-small resid_pre layer 8", "gpt2-small-res-jb/blocks.8.hook_resid_pre"),
        ("gpt2-small/8-res-jb", "gpt2-small-res-jb/blocks.8.hook_resid_pre"),
        ("jbloom/GPT2-Small-SAEs-Reformatted 11 post",
         "gpt2-small-res-jb/blocks.11.hook_resid_post"),
        ("hook_z gpt2 layer 3", "gpt2-small-hook-z-kk/blocks.3.hook_z"),
        ("jumprelu llama 32x layer 7 attention", "llama_scope_lxa_32x/l7a_32x"),
        ("gemma-2-2b residual 16k canonical layer 20",
         "gemma-scope-2b-pt-res-canonical/layer_20/width_16k/canonical"),
    ],
)  # fmt: skip
def test_words_match_wherever_they_stand(text: str, spec: str) -> None:
    assert found(text)[0].spec == spec


def test_a_number_matches_as_a_whole() -> None:
    entries = found("gpt2-small-res-jb 1")
    assert [entry.layer for entry in entries] == [1]
    assert all("width_1m" in entry.sae_id for entry in found("gemma-scope-2 width_1"))


def test_exact_words_come_first_then_what_neuronpedia_shows() -> None:
    entries = found("gpt2-small-res-jb")
    assert [entry.release for entry in entries[:13]] == ["gpt2-small-res-jb"] * 13
    shown = [entry.neuronpedia_id is not None for entry in found("gemma-scope-9b-pt-res")]
    assert shown == sorted(shown, reverse=True)
    assert [entry.layer for entry in entries[:3]] == [0, 1, 2]


def test_near_names() -> None:
    assert near("gpt2-small-res-bj", public_releases())[0] == "gpt2-small-res-jb"
    assert near("layer_12/width_16k", ["layer_12/width_16k/x", "layer_3/width_16k/x", "y"])[0] == (
        "layer_12/width_16k/x"
    )
    assert near("", ["a"]) == []


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["saes", *words]) == 0
    return capsys.readouterr().out


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, "search", "gpt2-small", "resid_pre", "layer", "8", "--limit", "1")
    (row,) = [line for line in out.splitlines() if line.strip().startswith("gpt2-small-res-jb ")]
    assert row.split() == [
        "gpt2-small-res-jb", "blocks.8.hook_resid_pre", "gpt2-small", "60",
        "https://neuronpedia.org/gpt2-small/8-res-jb",
    ]  # fmt: skip
    assert "1 of 9" in out


def test_the_command_prints_json_and_lists_a_release(capsys: pytest.CaptureFixture[str]) -> None:
    listed = json.loads(printed(capsys, "search", "--release", "gpt2-small-res-jb", "--json"))
    assert len(listed) == 13
    assert listed[8]["spec"] == "gpt2-small-res-jb/blocks.8.hook_resid_pre"
    assert listed[8]["l0"] == 60
    twenty = json.loads(printed(capsys, "search", "gemma", "--json"))
    assert len(twenty) == 20
    everything = json.loads(printed(capsys, "search", "gpt2", "--limit", "0", "--json"))
    assert len(everything) == len(found("gpt2"))


def test_releases_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    every = json.loads(printed(capsys, "releases", "--json"))
    assert {row["release"] for row in every} == set(public_releases())
    out = printed(capsys, "releases", "qwen3-8b")
    assert "mwhanna-qwen3-8b-transcoders" in out
    assert "gpt2-small-res-jb" not in out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["search", "nothing-is-called-so"], 1, "nothing matches"),
        (["search", "--release", "gpt2-small-res-bj"], 1, "near: gpt2-small-res-jb"),
        (["releases", "nothing-is-called-so"], 1, "no release matches"),
        (["search"], 2, "give a word"),
        (["search", "x", "--limit", "-1"], 2, "expected a number"),
    ],
)
def test_what_cannot_be_answered_says_why(
    words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        assert main(["saes", *words]) == code
    except SystemExit as exit_:
        assert exit_.code == code  # noqa: PT017
    assert message in capsys.readouterr().err


def test_the_group_lists_the_commands_that_are_added_to_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for _ in range(2):
        assert main(["saes", "--help"]) == 0
        out = capsys.readouterr().out
        assert out.count("`saekit saes search --help`") == 1
        assert "unload" in out


def test_searching_imports_neither_torch_nor_grpc_and_takes_half_a_second() -> None:
    program = (
        "import sys, time; from saekit_client.cli import main; "
        "main(['saes', 'search', 'gemma', 'layer', '12']); "
        "assert not {'torch', 'grpc', 'numpy', 'huggingface_hub'} & set(sys.modules); "
        "print(time.process_time())"
    )
    runs = [
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
        for _ in range(3)
    ]
    assert min(float(done.stdout.split()[-1]) for done in runs) < 0.5
