"""What the registry refuses to load, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.registries import (
    fingerprinted,
    publish,
    refused,
    tiny_model,
)
from tests.saes import write_sae

from saekit_core.sae import (
    SAEMetadata,
)
from saekit_server.registry import Registry


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    made = Registry(tiny_model(), sae_root=tmp_path)
    yield made
    made.close()


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
            {
                "hook_name": "blocks.1.ln1.hook_out",
                "model_from_pretrained_kwargs": {"fold_ln": True},
            },
            "fold_ln gives other activations at blocks.1.ln1.hook_out",
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


@pytest.mark.parametrize(
    "kwargs",
    [
        {"center_writing_weights": False, "fold_ln": None, "trust_remote_code": True},
        {"center_writing_weights": True},  # TransformerLens leaves RMS norms alone
        {"fold_ln": True, "center_unembed": True, "dtype": "float16", "n_devices": 2},
        {"revision": "step3000"},  # a folder has no such names
    ],
)
def test_what_changes_nothing_at_the_hook_point_is_accepted(
    registry: Registry, tmp_path: Path, kwargs: dict[str, object]
) -> None:
    publish_with(tmp_path / "x", kwargs)
    bound = registry.load("x").loaded.bound
    assert not bound.reads_centred
    assert not bound.writes_centred


def test_another_revision_of_a_hub_model_is_refused(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_model(), "ref", "step1000")
    for asked in ("step1000", tiny_model().revision[:7]):
        publish_with(tmp_path / asked, {"revision": asked})
        registry.load(asked)
    publish_with(tmp_path / "x", {"revision": "step3000"})
    message = refused("FAILED_PRECONDITION", registry.load, "x").message
    assert "step3000" in message
    assert "step1000" in message


def publish_with(folder: Path, kwargs: dict[str, object]) -> None:
    sae = fingerprinted(0)
    metadata = replace(sae.cfg.metadata, model_from_pretrained_kwargs=kwargs)
    sae.cfg = replace(sae.cfg, metadata=metadata)
    write_sae(folder, sae)
