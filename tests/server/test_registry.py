"""The registry: names, revisions, replacement under load, pins and events."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.registries import (
    HOOK,
    SAE_BYTES,
    fingerprint,
    kinds,
    publish,
    reconstruction,
    refused,
    tiny_model,
    truncate,
)

from saekit_core.sae import (
    folder_revision,
)
from saekit_server.errors import DomainError, precondition
from saekit_server.registry import EventKind, Registry
from saekit_server.registry.events import MAX_WAITING
from saekit_server.registry.sources import Source


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    made = Registry(tiny_model(), sae_root=tmp_path)
    yield made
    made.close()


# names and revisions


def test_a_loaded_sae_is_found_by_name_and_by_revision(registry: Registry, tmp_path: Path) -> None:
    folder = publish(tmp_path / "a" / "res")
    result = registry.load("a/res")
    assert result.changed
    assert result.replaced_revision == ""
    assert result.loaded.revision == folder_revision(folder)
    assert registry.get("a/res") is result.loaded
    assert registry.get(f"a/res@{result.loaded.revision}") is result.loaded
    info = registry.describe("a/res")
    assert (info.hook.name, info.source, info.nbytes) == (HOOK, "file:a/res", SAE_BYTES)
    assert not any(p.requires_grad for p in result.loaded.sae.parameters())


def test_an_unknown_name_is_not_found_and_near_names_are_listed(
    registry: Registry, tmp_path: Path
) -> None:
    publish(tmp_path / "layer-1")
    registry.load("layer-1")
    assert "layer-1" in refused("NOT_FOUND", registry.get, "layer-2").message


def test_another_revision_than_the_loaded_one_is_refused_naming_both(
    registry: Registry, tmp_path: Path
) -> None:
    publish(tmp_path / "x")
    loaded = registry.load("x").loaded
    error = refused("FAILED_PRECONDITION", registry.get, "x@0123456789ab")
    assert "0123456789ab" in error.message
    assert loaded.revision in error.message


def test_loading_a_name_twice_needs_replace(registry: Registry, tmp_path: Path) -> None:
    publish(tmp_path / "x")
    registry.load("x")
    assert refused("ALREADY_EXISTS", registry.load, "x").field == "sae_id"


def test_the_same_bytes_again_change_nothing(registry: Registry, tmp_path: Path) -> None:
    publish(tmp_path / "x")
    first = registry.load("x")
    with registry.subscribe() as events:
        again = registry.load("x", replace=True)
        assert not again.changed
        assert again.replaced_revision == ""
        assert again.loaded is first.loaded
        assert [k for k, _ in kinds(events)] == [EventKind.PRESENT, EventKind.SYNCED]


def test_names_come_from_the_argument_the_spec_or_the_folder(
    registry: Registry, tmp_path: Path
) -> None:
    publish(tmp_path / "x")
    registry.load("x", sae_id="one")
    registry.load("two=file:x")
    registry.load("x")
    assert [info.sae_id for info in registry.list()] == ["one", "two", "x"]
    assert {info.source for info in registry.list()} == {"file:x"}


def test_lists_are_filtered_by_prefix_and_by_any_alias_of_the_hook_point(
    registry: Registry, tmp_path: Path
) -> None:
    publish(tmp_path / "a")
    publish(tmp_path / "b", hook_name="blocks.0.hook_mlp_out")
    registry.load_all(["a", "b"])
    assert [info.sae_id for info in registry.list(prefix="b")] == ["b"]
    alias = tiny_model().hook_point(HOOK).canonical
    assert alias != HOOK
    assert [info.sae_id for info in registry.list(hook_name=alias)] == ["a"]


def test_an_expected_revision_is_held_to(registry: Registry, tmp_path: Path) -> None:
    folder = publish(tmp_path / "x")
    error = refused("FAILED_PRECONDITION", registry.load, "x", expected_revision="0" * 12)
    assert error.field == "expected_revision"
    assert registry.list() == ()
    registry.load("x", expected_revision=folder_revision(folder))


def test_an_sae_can_be_run_in_another_number_type(tmp_path: Path) -> None:
    publish(tmp_path / "x")
    registry = Registry(tiny_model(), sae_root=tmp_path, sae_dtype="bfloat16")
    loaded = registry.load("x").loaded
    assert (loaded.dtype, loaded.sae.dtype) == ("bfloat16", torch.bfloat16)
    assert loaded.info.nbytes == SAE_BYTES // 2
    assert '"dtype": "float32"' in loaded.info.config_json


# replacement


def test_readers_see_whole_revisions_while_an_sae_is_replaced_100_times(
    registry: Registry, tmp_path: Path
) -> None:
    folders = [publish(tmp_path / f"v{seed}", seed) for seed in (1, 2)]
    expected = {folder_revision(folder): seed for seed, folder in enumerate(folders, 1)}
    registry.load("v1", sae_id="x")
    outputs = {}
    for source in ("v2", "v1"):
        loaded = registry.load(source, sae_id="x", replace=True).loaded
        outputs[loaded.revision] = reconstruction(loaded)
    done = threading.Event()
    problems: list[str] = []
    seen: set[str] = set()
    pinned_answers = [0, 0]

    def read() -> None:
        while not done.is_set():
            loaded = registry.get("x")
            seen.add(loaded.revision)
            if fingerprint(loaded) != expected[loaded.revision]:
                problems.append("revision and weights differ")
            if loaded.bound.revision != loaded.revision:
                problems.append("revision and binding differ")
            if not np.array_equal(reconstruction(loaded), outputs[loaded.revision]):
                problems.append("weights changed under a reader")

    def read_pinned() -> None:
        (wanted, *_) = expected
        while not done.is_set():
            try:
                loaded = registry.get(f"x@{wanted}")
            except DomainError as error:
                pinned_answers[1] += 1
                if error.code != "FAILED_PRECONDITION":
                    problems.append(error.code)
            else:
                pinned_answers[0] += 1
                if loaded.revision != wanted:
                    problems.append("another revision than asked for")

    readers = [threading.Thread(target=f) for f in (read, read, read_pinned)]
    for reader in readers:
        reader.start()
    try:
        for i in range(100):
            result = registry.load(f"v{2 - i % 2}", sae_id="x", replace=True)
            assert result.changed
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert not problems
    assert seen == set(expected)
    assert all(pinned_answers)
    assert registry.stats().loads["replaced"] == 102


def test_a_failed_reload_keeps_serving_the_old_revision(registry: Registry, tmp_path: Path) -> None:
    folder = publish(tmp_path / "x", 1)
    before = registry.load("x").loaded
    expected = reconstruction(before)
    with registry.subscribe() as events:
        events.drain()
        truncate(folder / "sae_weights.safetensors")
        error = refused("FAILED_PRECONDITION", registry.load, "x", replace=True)
        assert error.field == "source"
        assert "sae_weights.safetensors" in error.message
        assert str(tmp_path) not in error.message
        (event,) = events.drain()
        assert (event.kind, event.sae_id, event.source) == (EventKind.FAILED, "x", "file:x")
        assert event.error is not None
    assert registry.get("x") is before
    assert np.array_equal(reconstruction(before), expected)
    assert registry.stats().loads["failed"] == 1


def test_overwriting_or_truncating_a_loaded_file_changes_nothing(
    registry: Registry, tmp_path: Path
) -> None:
    folder = publish(tmp_path / "x", 1)
    loaded = registry.load("x").loaded
    expected = reconstruction(loaded)
    weights = folder / "sae_weights.safetensors"
    with weights.open("r+b") as file:
        file.seek(2000)
        file.write(b"\xff" * 5000)
    assert np.array_equal(reconstruction(registry.get("x")), expected)
    truncate(weights, 0.0)
    assert np.array_equal(reconstruction(registry.get("x")), expected)


def test_whoever_holds_an_sae_finishes_on_it_after_replacement_and_unload(
    registry: Registry, tmp_path: Path
) -> None:
    publish(tmp_path / "x", 1)
    held = registry.load("x").loaded
    expected = reconstruction(held)
    publish(tmp_path / "x", 2)
    result = registry.load("x", replace=True)
    assert result.replaced_revision == held.revision
    registry.unload("x")
    shutil.rmtree(tmp_path / "x")
    assert np.array_equal(reconstruction(held), expected)
    assert fingerprint(held) == 1
    refused("NOT_FOUND", registry.get, "x")


# pins


def test_a_pinned_revision_stays_beside_later_ones(registry: Registry, tmp_path: Path) -> None:
    publish(tmp_path / "x", 1)
    old = registry.load("x", pin=True).loaded
    publish(tmp_path / "x", 2)
    new = registry.load("x", replace=True).loaded
    assert fingerprint(registry.get("x")) == 2
    assert registry.get(f"x@{old.revision}") is old
    assert registry.get(f"x@{new.revision}") is new
    assert {(i.revision, i.pinned) for i in registry.list()} == {
        (old.revision, True),
        (new.revision, False),
    }
    publish(tmp_path / "x", 3)
    registry.load("x", replace=True)
    refused("FAILED_PRECONDITION", registry.get, f"x@{new.revision}")
    assert {i.revision for i in registry.unload("x")} == {i.revision for i in (old,)} | {
        folder_revision(tmp_path / "x")
    }
    assert registry.list() == ()


def test_unloading_the_current_revision_never_gives_its_name_to_an_older_one(
    registry: Registry, tmp_path: Path
) -> None:
    publish(tmp_path / "x", 1)
    old = registry.load("x", pin=True).loaded
    publish(tmp_path / "x", 2)
    new = registry.load("x", replace=True).loaded
    assert [i.revision for i in registry.unload(f"x@{new.revision}")] == [new.revision]
    assert old.revision in refused("FAILED_PRECONDITION", registry.get, "x").message
    assert registry.get(f"x@{old.revision}") is old


def test_a_load_without_pin_leaves_a_pin(registry: Registry, tmp_path: Path) -> None:
    publish(tmp_path / "x")
    registry.load("x", pin=True)
    assert registry.load("x", replace=True).loaded.info.pinned


# events


def test_a_watcher_sees_what_is_there_then_every_change(registry: Registry, tmp_path: Path) -> None:
    for name in ("a", "b", "other"):
        publish(tmp_path / name)
    registry.load_all(["m/a=file:a", "other"])
    rings: list[None] = []
    with registry.subscribe("m/", lambda: rings.append(None)) as events:
        assert kinds(events) == [(EventKind.PRESENT, "m/a"), (EventKind.SYNCED, "")]
        registry.load("b", sae_id="m/b")
        registry.load("a", sae_id="n")
        publish(tmp_path / "b", 4)
        registry.load("b", sae_id="m/b", replace=True)
        registry.unload("m/a")
        assert len(rings) == 3
        assert kinds(events) == [
            (EventKind.LOADED, "m/b"),
            (EventKind.REPLACED, "m/b"),
            (EventKind.UNLOADED, "m/a"),
        ]
        assert events.wait(0.01) == []


def test_a_watcher_that_falls_behind_is_told_so_and_forgotten(
    registry: Registry, tmp_path: Path
) -> None:
    rings: list[None] = []
    slow = registry.subscribe(notify=lambda: rings.append(None))
    place = Source("file:x", "x", tmp_path)
    with registry.subscribe() as quick:
        quick.drain()
        for _ in range(MAX_WAITING + 10):
            registry.report_failure(place, precondition("broken"))
            assert len(quick.drain()) == 1
    refused("UNAVAILABLE", slow.drain)
    assert len(rings) < MAX_WAITING + 10


def test_a_watcher_that_fails_or_is_closed_does_not_fail_a_load(
    registry: Registry, tmp_path: Path
) -> None:
    publish(tmp_path / "x")
    loop = asyncio.new_event_loop()
    loop.close()
    registry.subscribe(notify=lambda: loop.call_soon_threadsafe(print))
    closed = registry.subscribe()
    closed.close()
    assert registry.load("x").changed
    assert closed.drain() == []
