"""The canary: an SAE that does not do what was recorded of it is refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.registries import (
    principal_components,
    refused,
    tiny_model,
)

from saekit_core.sae import (
    FeaturesFile,
    write_sae_folder,
)
from saekit_server.registry import Registry
from saekit_server.registry.canary import read_canary


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    made = Registry(tiny_model(), sae_root=tmp_path)
    yield made
    made.close()


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
