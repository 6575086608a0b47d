"""The folder watcher: what appears is loaded, what changes reloaded, what goes unloaded."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.registries import (
    fingerprint,
    kinds,
    publish,
    reconstruction,
    tiny_model,
    truncate,
)

from saekit_server.errors import DomainError
from saekit_server.registry import EventKind, FolderWatcher, Poller, Registry


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def registry(root: Path) -> Iterator[Registry]:
    made = Registry(tiny_model(), sae_root=root)
    yield made
    made.close()


@pytest.fixture
def watcher(registry: Registry) -> FolderWatcher:
    return FolderWatcher(registry)


def served(registry: Registry) -> dict[str, int]:
    """Fingerprint of what serves, by name."""
    return {info.sae_id: fingerprint(registry.get(info.name)) for info in registry.list()}


def test_folders_at_any_depth_are_loaded_under_their_relative_path(
    registry: Registry, watcher: FolderWatcher, root: Path
) -> None:
    publish(root / "a", 1)
    publish(root / "deep" / "er" / "b", 2)
    publish(root / "a" / "within", 3)
    (root / "empty").mkdir()
    assert watcher.poll_once().loaded == ("a", "a/within", "deep/er/b")
    assert served(registry) == {"a": 1, "a/within": 3, "deep/er/b": 2}
    assert registry.describe("deep/er/b").source == "file:deep/er/b"


def test_names_with_a_dot_before_them_are_not_looked_at(
    registry: Registry, watcher: FolderWatcher, root: Path
) -> None:
    publish(root / ".aside")
    publish(root / ".old" / "b")
    publish(root / "a" / ".new")
    report = watcher.poll_once()
    assert (report.loaded, report.failed) == ((), {})
    assert registry.list() == ()


def test_a_changed_folder_is_reloaded_and_an_unchanged_one_is_not_read(
    registry: Registry, watcher: FolderWatcher, root: Path
) -> None:
    publish(root / "x", 1)
    publish(root / "y", 1)
    watcher.poll_once()
    before = registry.get("x")
    assert watcher.poll_once().loaded == ()
    assert registry.stats().loads == {"loaded": 2}
    publish(root / "x", 2)
    with registry.subscribe() as events:
        events.drain()
        assert watcher.poll_once().loaded == ("x",)
        assert kinds(events) == [(EventKind.REPLACED, "x")]
    assert served(registry) == {"x": 2, "y": 1}
    assert fingerprint(before) == 1
    refused_revision = f"x@{before.revision}"
    with pytest.raises(DomainError):
        registry.get(refused_revision)


def test_touched_files_with_the_same_bytes_change_nothing(
    registry: Registry, watcher: FolderWatcher, root: Path
) -> None:
    publish(root / "x", 1)
    watcher.poll_once()
    loaded = registry.get("x")
    os.utime(root / "x" / "cfg.json", (1, 1))
    assert watcher.poll_once().loaded == ()
    assert registry.get("x") is loaded
    assert registry.stats().loads["unchanged"] == 1


def test_an_sae_is_unloaded_only_when_two_polls_missed_its_folder(
    registry: Registry, watcher: FolderWatcher, root: Path
) -> None:
    publish(root / "x", 1)
    watcher.poll_once()
    os.rename(root / "x", root / ".x")
    assert watcher.poll_once().unloaded == ()
    os.rename(root / ".x", root / "x")
    watcher.poll_once()
    os.rename(root / "x", root / ".x")
    assert watcher.poll_once().unloaded == ()
    assert served(registry) == {"x": 1}
    assert watcher.poll_once().unloaded == ("x",)
    assert registry.list() == ()
    os.rename(root / ".x", root / "x")
    assert watcher.poll_once().loaded == ("x",)


def test_a_bad_folder_is_reported_once_while_the_old_revision_serves(
    registry: Registry, watcher: FolderWatcher, root: Path
) -> None:
    publish(root / "x", 1)
    publish(root / "good", 3)
    watcher.poll_once()
    expected = reconstruction(registry.get("x"))
    whole = (root / "x" / "sae_weights.safetensors").read_bytes()
    truncate(root / "x" / "sae_weights.safetensors")
    with registry.subscribe() as events:
        events.drain()
        assert list(watcher.poll_once().failed) == ["x"]
        for _ in range(3):
            assert watcher.poll_once().failed == {}
        (event,) = events.drain()
        assert (event.kind, event.sae_id) == (EventKind.FAILED, "x")
        assert "sae_weights.safetensors" in str(event.error)
    assert np.array_equal(reconstruction(registry.get("x")), expected)
    truncate(root / "x" / "sae_weights.safetensors", 0.9)
    assert list(watcher.poll_once().failed) == ["x"]
    (root / "x" / "sae_weights.safetensors").write_bytes(whole)
    report = watcher.poll_once()
    assert (report.loaded, report.failed) == ((), {})  # what served all the time is back
    assert served(registry) == {"x": 1, "good": 3}


def test_a_folder_that_is_written_bit_by_bit_is_loaded_when_it_is_whole(
    registry: Registry, watcher: FolderWatcher, root: Path, tmp_path: Path
) -> None:
    whole = publish(tmp_path / "elsewhere", 7)
    (root / "x").mkdir()
    assert watcher.poll_once().failed == {}
    shutil.copy(whole / "cfg.json", root / "x")
    assert list(watcher.poll_once().failed) == ["x"]
    shutil.copy(whole / "sae_weights.safetensors", root / "x")
    assert watcher.poll_once().loaded == ("x",)
    assert served(registry) == {"x": 7}


def test_a_name_that_is_no_sae_id_is_reported(watcher: FolderWatcher, root: Path) -> None:
    publish(root / "with space")
    publish(root / "fine")
    report = watcher.poll_once()
    assert report.loaded == ("fine",)
    assert report.failed["with space"].code == "INVALID_ARGUMENT"


def test_what_was_loaded_under_the_name_from_elsewhere_is_left_alone(
    registry: Registry, watcher: FolderWatcher, root: Path, tmp_path: Path
) -> None:
    outside = publish(tmp_path / "outside", 5)
    registry.load(f"x=file:{outside}", trusted=True)
    publish(root / "x", 1)
    assert str(outside) in watcher.poll_once().failed["x"].message
    shutil.rmtree(root / "x")
    for _ in range(3):
        assert watcher.poll_once().unloaded == ()
    assert served(registry) == {"x": 5}


def test_a_pinned_sae_outlives_its_folder_and_its_replacement(
    registry: Registry, watcher: FolderWatcher, root: Path
) -> None:
    publish(root / "x", 1)
    watcher.poll_once()
    pinned = registry.load("x", replace=True, pin=True).loaded
    publish(root / "x", 2)
    watcher.poll_once()
    assert registry.get(f"x@{pinned.revision}").revision == pinned.revision
    assert fingerprint(registry.get("x")) == 2
    publish(root / "x", 1)
    watcher.poll_once()
    assert registry.describe("x").pinned
    shutil.rmtree(root / "x")
    for _ in range(3):
        assert watcher.poll_once().unloaded == ()
    assert fingerprint(registry.get("x")) == 1


def test_a_root_that_disappears_unloads_nothing(
    registry: Registry, watcher: FolderWatcher, root: Path
) -> None:
    publish(root / "x", 1)
    watcher.poll_once()
    os.rename(root, root.with_name("away"))
    for _ in range(3):
        assert watcher.poll_once().unloaded == ()
    assert served(registry) == {"x": 1}
    os.rename(root.with_name("away"), root)
    publish(root / "x", 2)
    assert watcher.poll_once().loaded == ("x",)


def test_links_are_followed_within_the_root_only_and_never_in_circles(
    registry: Registry, watcher: FolderWatcher, root: Path, tmp_path: Path
) -> None:
    publish(root / "v1", 1)
    publish(tmp_path / "outside", 9)
    (root / "current").symlink_to("v1")
    (root / "leak").symlink_to(tmp_path / "outside")
    (root / "v1" / "circle").symlink_to("..")
    assert watcher.poll_once().failed == {}
    assert served(registry) == {"v1": 1, "current": 1}
    publish(root / "v2", 2)
    (root / "current").unlink()
    (root / "current").symlink_to("v2")
    watcher.poll_once()
    assert served(registry) == {"v1": 1, "v2": 2, "current": 2}


def test_an_sae_that_was_unloaded_by_hand_stays_unloaded_until_its_folder_changes(
    registry: Registry, watcher: FolderWatcher, root: Path
) -> None:
    publish(root / "x", 1)
    watcher.poll_once()
    registry.unload("x")
    watcher.poll_once()
    assert registry.list() == ()
    publish(root / "x", 2)
    watcher.poll_once()
    assert served(registry) == {"x": 2}


def test_a_registry_without_a_root_cannot_be_watched() -> None:
    with pytest.raises(DomainError, match="SAE root"):
        FolderWatcher(Registry(tiny_model()))


def test_a_poller_polls_until_it_is_stopped_and_survives_a_failed_poll(
    registry: Registry, watcher: FolderWatcher, root: Path
) -> None:
    polls: list[None] = []

    def poll() -> None:
        polls.append(None)
        if len(polls) == 1:
            raise OSError("a disk that is away for a moment")
        watcher.poll_once()

    poller = Poller(poll, 0.005, name="watch")
    with registry.subscribe() as events:
        events.drain()
        poller.start()
        publish(root / "x", 1)
        deadline = time.monotonic() + 10
        seen = []
        while not seen and time.monotonic() < deadline:
            seen = [event.kind for event in events.wait(0.5)]
    poller.stop()
    assert seen == [EventKind.LOADED]
    n = len(polls)
    time.sleep(0.02)
    assert len(polls) == n
