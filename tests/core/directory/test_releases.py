"""The directory that is shipped: what it says, how large it is, how soon it is there."""

import json
import subprocess
import sys
import time
from pathlib import Path

import saekit_core.directory.releases as module
from saekit_core.directory import Directory, public_releases
from saekit_core.sae import check_sae_id, parse_spec

DATA = Path(module.__file__).with_name(module.DATA_FILE)


def test_it_lists_the_public_releases() -> None:
    directory = public_releases()
    entries = [entry for release in directory.values() for entry in release.entries.values()]
    assert len(directory) >= 170
    assert len(entries) >= 13857
    assert sum(entry.norm_scaling_factor is not None for entry in entries) >= 304
    assert sum(bool(release.config_overrides) for release in directory.values()) >= 15


def test_facts_of_releases_that_everybody_tries() -> None:
    directory = public_releases()
    entry = directory["gpt2-small-res-jb"].entries["blocks.8.hook_resid_pre"]
    assert entry.repo == "jbloom/GPT2-Small-SAEs-Reformatted"
    assert entry.path == "blocks.8.hook_resid_pre"
    assert (entry.format, entry.model, entry.layer) == ("saelens", "gpt2-small", 8)
    assert entry.url == "https://neuronpedia.org/gpt2-small/8-res-jb"
    assert entry.config_overrides == {
        "model_from_pretrained_kwargs": {"center_writing_weights": True}
    }
    canonical = directory["gemma-scope-2b-pt-res-canonical"]
    entry = canonical.entries["layer_20/width_16k/canonical"]
    assert (entry.format, entry.path) == ("gemma_scope", "layer_20/width_16k/average_l0_71")
    llama = directory["llama_scope_lxr_8x"].entries["l15r_8x"]
    assert llama.path == "Llama3_1-8B-Base-L15R-8x"
    assert llama.norm_scaling_factor is not None
    assert llama.layer == 15


def test_every_sae_can_be_named_in_a_spec() -> None:
    for release in public_releases().values():
        for entry in release.entries.values():
            assert check_sae_id(entry.spec) == entry.spec
    spec = parse_spec("gpt2-small-res-jb/blocks.8.hook_resid_pre")
    assert (spec.kind, spec.source) == ("release", "gpt2-small-res-jb")


def test_every_sae_but_those_of_embeddings_has_a_layer() -> None:
    without = {
        entry.sae_id.partition("/")[0]
        for release in public_releases().values()
        for entry in release.entries.values()
        if entry.layer is None
    }
    assert without == {"embedding"}


def test_what_several_releases_list_changes_numbers_alike() -> None:
    stated: dict[tuple[str, str], object] = {}
    for release in public_releases().values():
        for entry in release.entries.values():
            facts = (entry.format, entry.norm_scaling_factor, entry.config_overrides)
            assert stated.setdefault((entry.repo, entry.path), facts) == facts, entry.spec


def test_a_place_leads_to_its_entry_and_prefers_one_with_a_page() -> None:
    found = public_releases().at("google/gemma-scope-2b-pt-res", "layer_20/width_16k/average_l0_71")
    assert found is not None
    assert found.neuronpedia_id == "gemma-2-2b/20-gemmascope-res-16k"
    assert public_releases().at("google/gemma-scope-2b-pt-res", "layer_20") is None
    assert public_releases().at("user/repo", "x") is None


def test_it_stays_small() -> None:
    assert DATA.stat().st_size < 250_000


def test_the_largest_release_is_there_in_20_ms() -> None:
    text = DATA.read_text(encoding="utf-8")

    def once() -> float:
        began = time.process_time()
        directory = Directory.parse(text)
        assert len(directory["gemma-scope-9b-pt-res"].entries) == 536
        return time.process_time() - began

    assert min(once() for _ in range(5)) < 0.02


def test_the_library_does_not_read_it_before_it_is_asked_for() -> None:
    program = (
        "import saekit_core.sae, saekit_core.directory.releases as d; "
        "assert d.public_releases.cache_info().currsize == 0; "
        "saekit_core.sae.parse_spec('folder'); saekit_core.sae.parse_spec('hf://u/r/x'); "
        "assert d.public_releases.cache_info().currsize == 0; "
        "saekit_core.sae.parse_spec('folder/x'); "
        "assert d.public_releases.cache_info().currsize == 1"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_every_line_is_short_enough_to_read_a_change_in() -> None:
    lines = DATA.read_text(encoding="utf-8").splitlines()
    assert len(lines) > 500
    assert max(map(len, lines)) < 4000
    json.loads("\n".join(lines))
