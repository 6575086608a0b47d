"""The manifest: a server converges to what the file says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.registries import FakeClock, fingerprint, kinds, publish, tiny_model

from saekit_core.sae import folder_revision
from saekit_server.errors import DomainError
from saekit_server.registry import EventKind, FolderWatcher, Manifest, Registry
from saekit_server.registry.manifest_file import read_manifest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed, name in enumerate(("a", "b", "c"), 1):
        publish(tmp_path / "root" / name, seed)
    return tmp_path / "root"


@pytest.fixture
def registry(root: Path) -> Iterator[Registry]:
    made = Registry(tiny_model(), sae_root=root)
    yield made
    made.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def manifest(registry: Registry, tmp_path: Path, clock: FakeClock) -> Manifest:
    return Manifest(registry, tmp_path / "saes.toml", clock=clock)


def write(tmp_path: Path, text: str) -> None:
    """As an operator's tool does: aside, then renamed."""
    (tmp_path / ".new").write_text(text)
    os.replace(tmp_path / ".new", tmp_path / "saes.toml")


def served(registry: Registry) -> dict[str, int]:
    return {
        info.sae_id: fingerprint(registry.restore(info.name).result(10)) for info in registry.list()
    }


def test_it_loads_what_it_names_with_pins_labels_and_watched_features(
    registry: Registry, manifest: Manifest, tmp_path: Path, root: Path
) -> None:
    revision = folder_revision(root / "a")
    write(
        tmp_path,
        f"""
        [sae."gpt2/one"]
        spec = "file:a"
        revision = "{revision}"
        pin = true
        labels = {{ team = "safety" }}
        watch_features = [17, 95]
        [sae.b]
        spec = "b"
        """,
    )
    report = manifest.poll_once()
    assert (report.loaded, report.failed) == (("gpt2/one", "b"), {})
    info = registry.describe("gpt2/one")
    assert (info.pinned, dict(info.labels)) == (True, {"team": "safety"})
    assert info.watch_features == (17, 95)
    assert served(registry) == {"gpt2/one": 1, "b": 2}
    with registry.subscribe() as events:
        events.drain()
        assert manifest.poll_once().loaded == ()
        assert kinds(events) == []


def test_it_replaces_what_changed_and_unloads_what_it_names_no_longer(
    registry: Registry, manifest: Manifest, tmp_path: Path
) -> None:
    registry.load("c", sae_id="by-hand")
    write(tmp_path, '[sae.x]\nspec="a"\n[sae.y]\nspec="b"\npin=true\n')
    manifest.poll_once()
    held = registry.get("y")
    write(tmp_path, '[sae.x]\nspec="c"\n')
    report = manifest.poll_once()
    assert (report.loaded, report.unloaded) == (("x",), ("y",))
    assert served(registry) == {"x": 3, "by-hand": 3}
    assert fingerprint(held) == 2
    write(tmp_path, "")
    assert manifest.poll_once().unloaded == ("x",)
    assert served(registry) == {"by-hand": 3}


def test_changed_labels_and_pins_reach_an_sae_that_serves(
    registry: Registry, manifest: Manifest, tmp_path: Path
) -> None:
    write(tmp_path, '[sae.x]\nspec="a"\npin=true\nlabels={v="1"}\n')
    manifest.poll_once()
    sae = registry.get("x").sae
    write(tmp_path, '[sae.x]\nspec="a"\nlabels={v="2"}\n')
    assert manifest.poll_once().failed == {}
    info = registry.describe("x")
    assert (info.pinned, dict(info.labels)) == (False, {"v": "2"})
    assert registry.get("x").sae is sae


def test_one_bad_entry_does_not_stop_the_others(
    registry: Registry, manifest: Manifest, tmp_path: Path
) -> None:
    write(
        tmp_path,
        """
        [sae.missing]
        spec = "nowhere"
        [sae.mistyped]
        spec = "a"
        pin = "yes"
        [sae.unknown]
        spec = "a"
        pinned = true
        [sae."../up"]
        spec = "a"
        [sae.beyond]
        spec = "a"
        watch_features = [96]
        [sae.good]
        spec = "b"
        """,
    )
    with registry.subscribe() as events:
        events.drain()
        report = manifest.poll_once()
        told = {event.sae_id for event in events.drain() if event.kind is EventKind.FAILED}
    bad = {"missing", "mistyped", "unknown", "../up", "beyond"}
    assert report.loaded == ("good",)
    assert set(report.failed) == bad
    assert told == bad
    assert report.failed["mistyped"].field == 'sae."mistyped".pin'
    assert "saes.toml" in report.failed["mistyped"].message
    assert report.failed["unknown"].field == 'sae."unknown".pinned'
    assert "96" in report.failed["beyond"].message
    assert served(registry) == {"good": 2}


@pytest.mark.parametrize("text", ["[sae.x\n", "sae = 3\n", 'saes = {}\n[sae.x]\nspec = "a"\n'])
def test_a_broken_file_keeps_the_last_good_one(
    registry: Registry, manifest: Manifest, tmp_path: Path, text: str
) -> None:
    write(tmp_path, '[sae.x]\nspec="a"\n')
    manifest.poll_once()
    write(tmp_path, text)
    report = manifest.poll_once()
    assert "saes.toml" in report.failed["saes.toml"].message
    assert report.unloaded == ()
    assert manifest.poll_once().failed == {}
    (tmp_path / "saes.toml").unlink()
    assert list(manifest.poll_once().failed) == ["saes.toml"]
    assert served(registry) == {"x": 1}
    write(tmp_path, '[sae.x]\nspec="b"\n')
    assert manifest.poll_once().loaded == ("x",)


def test_an_entry_that_becomes_bad_keeps_what_serves(
    registry: Registry, manifest: Manifest, tmp_path: Path
) -> None:
    write(tmp_path, '[sae.x]\nspec="a"\n')
    manifest.poll_once()
    write(tmp_path, "[sae.x]\nspec=3\n")
    report = manifest.poll_once()
    assert (report.unloaded, list(report.failed)) == ((), ["x"])
    assert served(registry) == {"x": 1}


def test_a_failed_entry_is_tried_again_at_growing_intervals(
    registry: Registry, manifest: Manifest, tmp_path: Path, root: Path, clock: FakeClock
) -> None:
    write(tmp_path, '[sae.late]\nspec="late"\n')
    tried = []
    for _ in range(40):
        if manifest.poll_once().failed:
            tried.append(clock.now - 1000)
        clock.now += 0.5
    assert tried == [0, 1, 3, 7, 15]
    publish(root / "late", 8)
    clock.now += 60
    assert manifest.poll_once().loaded == ("late",)
    assert served(registry) == {"late": 8}


def test_another_revision_than_the_manifests_never_gets_the_name(
    registry: Registry, manifest: Manifest, tmp_path: Path, root: Path
) -> None:
    revision = folder_revision(root / "a")
    write(tmp_path, f'[sae.a]\nspec="file:a"\nrevision="{revision}"\n')
    manifest.poll_once()
    publish(root / "a", 9)
    failed = FolderWatcher(registry).poll_once().failed["a"]
    assert (failed.code, revision in failed.message) == ("FAILED_PRECONDITION", True)
    with pytest.raises(DomainError, match=revision):
        registry.load("a", replace=True)
    assert fingerprint(registry.get("a")) == 1
    write(tmp_path, f'[sae.a]\nspec="file:a"\nrevision="{folder_revision(root / "a")}"\n')
    assert manifest.poll_once().loaded == ("a",)
    assert fingerprint(registry.get("a")) == 9


def test_without_preload_an_sae_is_checked_but_comes_to_memory_when_asked_for(
    registry: Registry, manifest: Manifest, tmp_path: Path, root: Path
) -> None:
    write(tmp_path, '[sae.x]\nspec="a"\npreload=false\n[sae.y]\nspec="nowhere"\npreload=false\n')
    assert list(manifest.poll_once().failed) == ["y"]
    info = registry.describe("x")
    assert (info.device, info.revision) == ("disk", folder_revision(root / "a"))
    assert registry.stats().resident_bytes == 0
    assert fingerprint(registry.restore("x").result(10)) == 1
    assert registry.describe("x").device == "cpu"


def test_what_was_replaced_by_hand_is_not_unloaded_with_its_entry(
    registry: Registry, manifest: Manifest, tmp_path: Path
) -> None:
    write(tmp_path, '[sae.x]\nspec="a"\n')
    manifest.poll_once()
    registry.load("b", sae_id="x", replace=True)
    write(tmp_path, "")
    assert manifest.poll_once().unloaded == ()
    assert served(registry) == {"x": 2}


def test_a_missing_manifest_is_reported(manifest: Manifest, tmp_path: Path) -> None:
    assert manifest.poll_once().failed["saes.toml"].code == "NOT_FOUND"
    with pytest.raises(DomainError, match=r"saes\.toml"):
        read_manifest(tmp_path / "saes.toml")
