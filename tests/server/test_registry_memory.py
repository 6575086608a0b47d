"""SAEs over the memory budget: who leaves, how they come back, what the asker sees."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tests.registries import (
    SAE_BYTES,
    FakeClock,
    fingerprint,
    principal_components,
    publish,
    reconstruction,
    refused,
    tiny_model,
)

from saekit_core.sae import (
    FeaturesFile,
    folder_revision,
    write_sae_folder,
)
from saekit_server.errors import DomainError
from saekit_server.registry import Registry
from saekit_server.registry.memory import GRACE_S


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
