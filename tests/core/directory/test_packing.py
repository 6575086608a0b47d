"""Packing loses nothing, and depends on the facts alone."""

import importlib.util
import random
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from saekit_core.directory import Directory, Entry, public_releases
from saekit_core.directory.families import pack, unpack
from saekit_core.directory.packing import pack_entries

SCRIPT = Path(__file__).parents[3] / "scripts/release_directory.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release_directory", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def source() -> dict[str, Any]:
    """In the form of the source, with each of its peculiarities."""
    nested = {"conversion_func": None, "model": "gpt2-small", "repo_id": "u/native", "saes": []}
    return {
        "native": {
            "conversion_func": None,
            "repo_id": "u/native",
            "model": "gpt2-small",
            "links": {"model": "a web page"},
            "config_overrides": {"model_from_pretrained_kwargs": {"center_writing_weights": True}},
            "saes": [
                {"id": f"blocks.{n}.hook_z", "path": f"f_{n}:v1_1.20e-03.pt", "l0": 30.0 + n,
                 "norm_scaling_factor": 0.1 / (n + 1), "variance_explained": -0.85}
                for n in range(12)
            ] + [{"id": "odd", "path": 7, "neuronpedia": "gpt2-small/odd", **nested}],
        },
        "scope": {
            "conversion_func": "gemma_2",
            "repo_id": "g/scope",
            "model": "gemma-2-2b",
            "saes": [
                {"id": f"layer_{n}/width_{w}k/average_l0_{n * w}", "l0": n * w,
                 "path": f"layer_{n}/width_{w}k/average_l0_{n * w}",
                 **({"neuronpedia": f"gemma-2-2b/{n}-res-{w}k"} if n % 2 else {})}
                for n in range(26) for w in (16, 65)
            ],
        },
    }  # fmt: skip


def entries_of(directory: Directory) -> list[Entry]:
    return [entry for release in directory.values() for entry in release.entries.values()]


def test_every_fact_of_the_source_comes_back(script: ModuleType) -> None:
    entries = list(script.read_entries(source()))
    assert len(entries) == 13 + 52
    back = Directory.parse(pack_entries(entries))
    assert sorted(entries_of(back), key=lambda e: e.spec) == sorted(entries, key=lambda e: e.spec)
    assert back["native"].entries["odd"].path == "7"
    assert back["scope"].format == "gemma_scope"


def test_the_same_facts_make_the_same_bytes(script: ModuleType) -> None:
    entries = list(script.read_entries(source()))
    text = pack_entries(entries)
    for seed in range(3):
        random.Random(seed).shuffle(entries)
        assert pack_entries(entries) == text


def test_the_shipped_file_is_as_it_would_be_written() -> None:
    shipped = public_releases()
    names = ["gpt2-small-res-jb", "llama_scope_lxr_8x", "gemma-scope-9b-pt-res"]
    sample = Directory.parse(pack_entries(e for n in names for e in shipped[n].entries.values()))
    for name in names:
        assert list(sample[name].families) == list(shipped[name].families)
        assert sample[name] == shipped[name]


@given(
    st.lists(
        st.fixed_dictionaries(
            {"id": st.from_regex(r"[a-b0-9._/+-]{0,6}", fullmatch=True)},
            optional={
                "l0": st.from_regex(r"-?[0-9]{1,3}(\.[0-9]{1,2}(e-0[1-9])?)?", fullmatch=True),
                "path": st.text(alphabet="0129x*- .", max_size=6),
            },
        ),
        max_size=12,
        unique_by=lambda facts: facts["id"],
    )
)
def test_families_hold_any_facts(facts: list[dict[str, str]]) -> None:
    def order(one: dict[str, str]) -> list[tuple[str, str]]:
        return sorted(one.items())

    back = []
    for family in pack(facts):
        facts_of = unpack(family)
        rows = zip(*facts_of.values(), strict=True)
        back += [dict(zip(facts_of, row, strict=True)) for row in rows]
    assert sorted(back, key=order) == sorted(facts, key=order)


def test_what_is_not_understood_is_refused(script: ModuleType) -> None:
    new_key, new_loader, new_fact = source(), source(), source()
    new_key["scope"]["saes"][3]["scale"] = 2
    new_loader["scope"]["conversion_func"] = "gemma_9"
    new_fact["scope"]["revision"] = "v1"
    for changed, match in (
        (new_key, "layer_1/width_65k/average_l0_65: scale: not known"),
        (new_loader, "'gemma_9' is not known"),
        (new_fact, "scope: revision: not known"),
    ):
        with pytest.raises(ValueError, match=match):
            list(script.read_entries(changed))


def test_a_difference_to_the_source_is_found(tmp_path: Path) -> None:
    """The script on a source of which the shipped file knows nothing."""
    path = tmp_path / "source.yaml"
    path.write_text(yaml.safe_dump(source()))
    command = [sys.executable, str(SCRIPT), str(path), "--check"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "2 releases, 65 SAEs" in done.stdout
    assert "SAEs differ" in done.stderr
