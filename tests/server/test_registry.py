"""The registry: names, revisions, replacement under load, and what it refuses."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.registries import (
    D_MODEL,
    HOOK,
    SAE_BYTES,
    FakeClock,
    fingerprint,
    fingerprinted,
    kinds,
    publish,
    reconstruction,
    tiny_model,
    truncate,
)
from tests.saes import write_sae

from saekit_core.sae import (
    SAE,
    FeaturesFile,
    SAEConfig,
    SAEMetadata,
    folder_revision,
    write_sae_folder,
)
from saekit_server.errors import DomainError, precondition
from saekit_server.registry import EventKind, Registry
from saekit_server.registry.canary import explained_variance, read_canary
from saekit_server.registry.events import MAX_WAITING
from saekit_server.registry.memory import GRACE_S
from saekit_server.registry.sources import Source


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    made = Registry(tiny_model(), sae_root=tmp_path)
    yield made
    made.close()


def refused(code: str, call: object, *args: object, **kwargs: object) -> DomainError:
    """The error of a call that must be refused with that code."""
    with pytest.raises(DomainError) as caught:
        call(*args, **kwargs)  # type: ignore[operator]
    assert caught.value.code == code, caught.value
    return caught.value


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


# what is refused


@pytest.mark.parametrize(
    "source",
    [
        "../x",
        "file:../x",
        "a/../../x",
        "/etc",
        "file:/etc",
        "file:./x",
        "a//b",
        "",
        "x y",
        "n=../x",
    ],
)
def test_specs_that_lead_out_of_the_root_are_refused(
    tmp_path: Path, registry: Registry, source: str
) -> None:
    registry.sae_root = tmp_path / "root"
    publish(tmp_path / "x")
    assert refused("INVALID_ARGUMENT", registry.load, source).field == "source"


def test_a_name_with_path_traversal_is_refused(registry: Registry, tmp_path: Path) -> None:
    publish(tmp_path / "x")
    assert refused("INVALID_ARGUMENT", registry.load, "x", sae_id="../y").field == "sae_id"
    refused("INVALID_ARGUMENT", registry.load, "../y=file:x")


def test_links_out_of_the_root_are_refused(registry: Registry, tmp_path: Path) -> None:
    outside = publish(tmp_path / "outside")
    registry.sae_root = tmp_path / "root"
    inside = publish(tmp_path / "root" / "inside")
    (tmp_path / "root" / "link").symlink_to(outside)
    refused("INVALID_ARGUMENT", registry.load, "link")
    (tmp_path / "root" / "alias").symlink_to(inside)
    registry.load("alias")
    (inside / "cfg.json").unlink()
    (inside / "cfg.json").symlink_to(outside / "cfg.json")
    refused("INVALID_ARGUMENT", registry.load, "inside")


def test_the_operator_may_name_any_folder(tmp_path: Path) -> None:
    outside = publish(tmp_path / "outside")
    inside = publish(tmp_path / "root" / "a" / "inside")
    registry = Registry(tiny_model(), sae_root=tmp_path / "root")
    assert registry.load(f"file:{outside}", trusted=True).loaded.sae_id == "outside"
    info = registry.load(f"file:{inside}", trusted=True).loaded.info
    assert (info.sae_id, info.source) == ("a/inside", "file:a/inside")
    refused("NOT_FOUND", registry.load, f"file:{tmp_path}/none", trusted=True)


def test_a_folder_that_is_not_there_is_not_found(registry: Registry) -> None:
    assert refused("NOT_FOUND", registry.load, "none").field == "source"


@pytest.mark.parametrize("case", ["no cfg", "cfg of the wrong type", "not finite", "a lying shape"])
def test_broken_folders_are_refused(registry: Registry, tmp_path: Path, case: str) -> None:
    folder = publish(tmp_path / "x")
    cfg = folder / "cfg.json"
    match case:
        case "no cfg":
            cfg.unlink()
        case "cfg of the wrong type":
            cfg.write_text("[1, 2]")
        case "not finite":
            sae = fingerprinted(0)
            sae.W_dec.data[3, 3] = float("nan")
            write_sae(folder, sae)
        case _:
            cfg.write_text(cfg.read_text().replace('"d_sae": 96', '"d_sae": 97'))
    error = refused("FAILED_PRECONDITION", registry.load, "x")
    assert error.field == "source"
    assert "cfg.json" in error.message or "sae_weights" in error.message
    assert registry.list() == ()


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"hook_name": "blocks.7.hook_resid_pre"}, "blocks.1.hook_resid_pre"),
        ({"hook_name": None}, "hook_name"),
        ({"hook_name": "blocks.1.attn.hook_pattern"}, "reads"),
        (
            {"model_from_pretrained_kwargs": {"center_writing_weights": True}},
            "center_writing_weights",
        ),
        ({"model_from_pretrained_kwargs": {"some_new_processing": 3}}, "some_new_processing"),
        ({"hook_head_index": 0, "hook_name": "blocks.1.attn.hook_z"}, "has 8"),
    ],
)
def test_an_sae_that_does_not_fit_the_model_is_refused(
    registry: Registry, tmp_path: Path, metadata: dict[str, object], expected: str
) -> None:
    sae = fingerprinted(0)
    sae.cfg = replace(
        sae.cfg,
        metadata=SAEMetadata.from_dict({**sae.cfg.metadata.to_dict(), **metadata}),
    )
    write_sae(tmp_path / "x", sae)
    assert expected in refused("FAILED_PRECONDITION", registry.load, "x").message


def test_an_sae_of_another_width_is_refused(registry: Registry, tmp_path: Path) -> None:
    write_sae(tmp_path / "x", fingerprinted(0, d_in=48))
    assert "48" in refused("FAILED_PRECONDITION", registry.load, "x").message


def test_raw_weights_and_arguments_without_effect_are_accepted(
    registry: Registry, tmp_path: Path
) -> None:
    sae = fingerprinted(0)
    kwargs = {"center_writing_weights": False, "fold_ln": None, "trust_remote_code": True}
    metadata = replace(sae.cfg.metadata, model_from_pretrained_kwargs=kwargs)
    sae.cfg = replace(sae.cfg, metadata=metadata)
    write_sae(tmp_path / "x", sae)
    registry.load("x")


# the canary


def principal_components(k: int = 10) -> SAE:
    """A standard SAE that reconstructs what `HOOK` shows on story-like text, from 2k features."""
    model = tiny_model()
    tokenized = model.tokenizer.encode_text(
        "a cat sat on the mat and the red bird flew over the old house by the river. " * 2
    )
    seen: list[torch.Tensor] = []
    hook = model.hook_point(HOOK)
    ids = torch.from_numpy(tokenized.ids[None, : model.max_context])
    model.forward(ids, taps={hook: lambda h: seen.append(h[0, 1:].clone())})
    mean = seen[0].mean(0)
    _, _, directions = torch.linalg.svd(seen[0] - mean, full_matrices=False)
    both = torch.cat([directions[:k], -directions[:k]])
    cfg = SAEConfig(
        "standard",
        D_MODEL,
        2 * k,
        apply_b_dec_to_input=True,
        metadata=SAEMetadata(hook_name=HOOK),
    )
    state = {
        "W_enc": both.mT.contiguous(),
        "b_enc": torch.zeros(2 * k),
        "W_dec": both.clone(),
        "b_dec": mean,
    }
    return SAE.from_state(cfg, state)


def test_an_sae_with_its_true_figures_passes_the_canary(registry: Registry, tmp_path: Path) -> None:
    sae = principal_components(16)
    write_sae_folder(sae, tmp_path / "x")
    reading = read_canary(tiny_model(), registry.load("x").loaded.bound)
    assert reading.l0 == pytest.approx(16, abs=0.5)
    assert reading.explained_variance > 0.5
    figures = FeaturesFile(l0=reading.l0 * 3, explained_variance=reading.explained_variance + 0.3)
    write_sae_folder(sae, tmp_path / "x", features=figures)
    info = registry.load("x", replace=True).loaded.info
    assert info.features is not None
    assert info.features.l0 == figures.l0


def test_an_sae_of_another_hook_point_fails_the_canary(registry: Registry, tmp_path: Path) -> None:
    sae = principal_components(16)
    figures = FeaturesFile(l0=16.0, explained_variance=0.9)
    write_sae_folder(sae, tmp_path / "x", features=figures)
    registry.load("x")
    metadata = replace(sae.cfg.metadata, hook_name="blocks.0.hook_resid_pre")
    sae.cfg = replace(sae.cfg, metadata=metadata)
    write_sae_folder(sae, tmp_path / "x", features=figures)
    error = refused("FAILED_PRECONDITION", registry.load, "x", replace=True)
    assert "explained variance" in error.message
    assert "0.9" in error.message


def test_an_l0_far_from_the_recorded_one_is_refused(registry: Registry, tmp_path: Path) -> None:
    sae = principal_components(16)
    for l0 in (2.5, 120.0):
        write_sae_folder(sae, tmp_path / "x", features=FeaturesFile(l0=l0))
        assert "L0 is 16" in refused("FAILED_PRECONDITION", registry.load, "x").message


def test_the_canary_runs_where_it_is_told_to(tmp_path: Path) -> None:
    write_sae_folder(principal_components(), tmp_path / "x", features=FeaturesFile(l0=10.0))
    threads: list[str] = []

    def elsewhere(call):  # type: ignore[no-untyped-def]
        results: list[object] = []

        def run() -> None:
            threads.append(threading.current_thread().name)
            results.append(call())

        thread = threading.Thread(target=run, name="device")
        thread.start()
        thread.join()
        return results[0]

    Registry(tiny_model(), sae_root=tmp_path, run_on_device=elsewhere).load("x")
    assert threads == ["device"]


def test_explained_variance_is_its_formula() -> None:
    y = torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 4.0]])
    z = torch.tensor([[0.0, 1.5], [1.0, 1.0], [4.0, 4.0]])
    # errors 0.25 and 1 over 3 tokens; E|y|^2 = 38/3, |E y|^2 = 4 + 4
    assert explained_variance(y, z) == pytest.approx(1 - (1.25 / 3) / (38 / 3 - 8))


# memory


def test_over_the_budget_the_least_recently_used_leaves_and_comes_back(tmp_path: Path) -> None:
    for seed, name in enumerate("abc"):
        publish(tmp_path / name, seed)
    clock = FakeClock()
    registry = Registry(
        tiny_model(), sae_root=tmp_path, memory_budget_bytes=2 * SAE_BYTES, clock=clock
    )
    expected = {}
    for name in "abc":
        if name == "c":
            clock.now += 1
            registry.get("a")  # so that b is the one to go
        expected[name] = reconstruction(registry.load(name).loaded)
        clock.now += 1
    assert {i.sae_id: i.device for i in registry.list()} == {"a": "cpu", "b": "disk", "c": "cpu"}
    stats = registry.stats()
    assert (stats.n_saes, stats.resident_bytes, stats.evictions) == (3, 2 * SAE_BYTES, 1)
    back = registry.restore("b").result(10)
    assert back.revision == folder_revision(tmp_path / "b")
    assert np.array_equal(reconstruction(back), expected["b"])
    assert registry.get("b") is back
    assert {i.sae_id: i.device for i in registry.list()} == {"a": "disk", "b": "cpu", "c": "cpu"}
    registry.close()


def test_asking_never_waits_for_a_load_that_runs(tmp_path: Path) -> None:
    publish(tmp_path / "here", 1)
    publish(tmp_path / "parked", 2)
    write_sae_folder(principal_components(), tmp_path / "slow", features=FeaturesFile(l0=10.0))
    device_is_busy, device_is_free = threading.Event(), threading.Event()

    def on_device(call):  # type: ignore[no-untyped-def]
        device_is_busy.set()
        assert device_is_free.wait(10)
        return call()

    registry = Registry(tiny_model(), sae_root=tmp_path, run_on_device=on_device)
    registry.load_all(["here", "parked"])
    registry.park("parked")
    slow = threading.Thread(target=registry.load, args=("slow",))
    slow.start()
    assert device_is_busy.wait(10)
    assert fingerprint(registry.get("here")) == 1
    for _ in range(2):
        assert refused("UNAVAILABLE", registry.get, "parked").retry_after_s
    waiting = registry.restore("parked")
    refused("NOT_FOUND", registry.get, "slow")
    device_is_free.set()
    slow.join()
    assert fingerprint(waiting.result(10)) == 2
    assert registry.get("parked") is waiting.result()
    assert registry.get("slow").sae_id == "slow"
    registry.close()


def test_on_the_host_an_sae_waits_in_memory_and_comes_back_as_it_was(tmp_path: Path) -> None:
    publish(tmp_path / "x", 5)
    registry = Registry(tiny_model(), sae_root=tmp_path, spill="host")
    loaded = registry.load("x").loaded
    registry.park("x")
    shutil.rmtree(tmp_path / "x")
    back = registry.restore("x").result(10)
    assert back is not loaded
    assert np.array_equal(reconstruction(back), reconstruction(loaded))
    registry.close()


def test_coroutines_can_await_an_sae_and_give_up_without_harm(tmp_path: Path) -> None:
    publish(tmp_path / "x")
    registry = Registry(tiny_model(), sae_root=tmp_path)
    registry.load("x")
    registry.park("x")

    async def use() -> int:
        waiting = asyncio.wrap_future(registry.restore("x"))
        waiting.cancel()
        return fingerprint(await asyncio.wrap_future(registry.restore("x")))

    assert asyncio.run(use()) == 0
    registry.close()


def test_a_parked_sae_whose_files_changed_is_refused_until_it_is_loaded_again(
    tmp_path: Path,
) -> None:
    publish(tmp_path / "x", 1)
    registry = Registry(tiny_model(), sae_root=tmp_path)
    registry.load("x")
    registry.park("x")
    publish(tmp_path / "x", 2)
    deadline = time.monotonic() + 10
    while True:
        with pytest.raises(DomainError) as caught:
            registry.get("x")
        if caught.value.code != "UNAVAILABLE":
            break
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert caught.value.code == "FAILED_PRECONDITION"
    assert folder_revision(tmp_path / "x") in caught.value.message
    assert registry.load("x", replace=True).replaced_revision
    assert fingerprint(registry.get("x")) == 2
    registry.close()


def test_pinned_saes_stay_and_what_cannot_fit_beside_them_is_refused(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        publish(tmp_path / name, seed)
    registry = Registry(tiny_model(), sae_root=tmp_path, memory_budget_bytes=SAE_BYTES)
    registry.load("a", pin=True)
    error = refused("RESOURCE_EXHAUSTED", registry.load, "b")
    assert str(SAE_BYTES) in error.message
    assert fingerprint(registry.get("a")) == 0
    small = Registry(tiny_model(), sae_root=tmp_path, memory_budget_bytes=SAE_BYTES - 1)
    assert refused("RESOURCE_EXHAUSTED", small.load, "a").retry_after_s is None


def test_an_sae_that_fills_the_budget_can_be_replaced(tmp_path: Path) -> None:
    publish(tmp_path / "x", 1)
    registry = Registry(tiny_model(), sae_root=tmp_path, memory_budget_bytes=SAE_BYTES)
    registry.load("x")
    publish(tmp_path / "x", 2)
    registry.load("x", replace=True)
    assert fingerprint(registry.get("x")) == 2


def test_what_came_back_is_used_before_it_has_to_go_again(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        publish(tmp_path / name, seed)
    clock = FakeClock()
    registry = Registry(tiny_model(), sae_root=tmp_path, memory_budget_bytes=SAE_BYTES, clock=clock)
    registry.load("a")
    registry.load("b")
    registry.restore("a").result(10)
    clock.now += GRACE_S / 2
    with pytest.raises(DomainError) as caught:
        registry.restore("b").result(10)
    assert (caught.value.code, caught.value.retry_after_s) == ("RESOURCE_EXHAUSTED", GRACE_S)
    assert fingerprint(registry.get("a")) == 0
    assert fingerprint(registry.restore("b").result(10)) == 1
    registry.close()


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
