"""Folders read for serving: hashed, checked, and out of everybody else's reach."""

import hashlib
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.core.sae.folders import NOT_FINITE, edit_weights, truncate, with_value, write_folder
from tests.core.sae.reference import random_activations, random_sae

from saekit_core.sae import (
    FeaturesFile,
    SAEFormatError,
    SAENotFoundError,
    folder_revision,
    read_sae_folder_owned,
    write_sae_folder,
)
from saekit_core.sae.layout import CFG_FILE, FEATURE_ARRAYS_FILE, FEATURES_FILE, WEIGHTS_FILE

FEATURES = FeaturesFile(
    density=np.full(40, 0.5, np.float32), max_activation=np.arange(40, dtype=np.float32)
)


def test_revision_is_the_documented_hash(tmp_path: Path) -> None:
    folder = write_sae_folder(random_sae("gated"), tmp_path / "sae", features=FEATURES)
    names = (CFG_FILE, FEATURES_FILE, FEATURE_ARRAYS_FILE, WEIGHTS_FILE)
    assert sorted(names) == list(names)
    sha = hashlib.sha256()
    for name in names:
        content = (folder / name).read_bytes()
        sha.update(name.encode() + b"\0" + len(content).to_bytes(8, "little") + content)
    revision = sha.hexdigest()[:12]
    assert folder_revision(folder) == revision
    assert read_sae_folder_owned(folder).revision == revision
    assert re.fullmatch("[0-9a-f]{12}", revision)


def test_revision_is_the_same_for_the_same_sae_wherever_it_lies(tmp_path: Path) -> None:
    first = write_folder(tmp_path / "a", seed=4)
    second = write_folder(tmp_path / "deep" / "b", seed=4)
    assert folder_revision(first) == folder_revision(second)
    (first / "README.md").write_text("not an answer")
    assert folder_revision(first) == folder_revision(second)


def test_revision_changes_with_every_file_that_determines_an_answer(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "sae")
    seen = {folder_revision(folder)}
    write_sae_folder(random_sae("standard"), folder, features=FEATURES)
    for name in (CFG_FILE, FEATURES_FILE, FEATURE_ARRAYS_FILE, WEIGHTS_FILE):
        seen.add(folder_revision(folder))
        (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    seen.add(folder_revision(folder))
    assert len(seen) == 6


@pytest.mark.parametrize("change", ["overwrite", "truncate", "delete"])
def test_what_happens_to_the_files_later_does_not_change_the_sae(
    tmp_path: Path, change: str
) -> None:
    folder = write_folder(tmp_path / "sae", "jumprelu")
    sae = read_sae_folder_owned(folder).build()
    x = random_activations(5, 12).float()
    before = sae(x)
    weights = folder / WEIGHTS_FILE
    if change == "delete":
        weights.unlink()
    else:
        with weights.open("r+b") as file:
            size = os.fstat(file.fileno()).st_size
            if change == "truncate":
                file.truncate(8)
            else:
                file.write(b"\0" * size)
    assert torch.equal(sae(x), before)


def test_built_sae_has_no_gradients_and_the_wanted_dtype(tmp_path: Path) -> None:
    folder = read_sae_folder_owned(write_folder(tmp_path / "sae"))
    sae = folder.build(dtype="bfloat16")
    assert sae.dtype == torch.bfloat16
    assert not any(parameter.requires_grad for parameter in sae.parameters())
    assert folder.build().W_enc.data_ptr() == folder.tensors["W_enc"].data_ptr()
    assert folder.nbytes == 4 * (2 * 12 * 40 + 12 + 40)


@pytest.mark.parametrize("name", NOT_FINITE)
def test_values_that_are_not_finite_are_refused_by_name(tmp_path: Path, name: str) -> None:
    folder = write_folder(tmp_path / "sae")
    NOT_FINITE[name](folder)
    with pytest.raises(SAEFormatError, match="NaN or infinite") as caught:
        read_sae_folder_owned(folder)
    assert caught.value.field == name.rsplit(maxsplit=1)[-1]


def test_a_weight_too_large_for_the_wanted_dtype_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "sae")
    edit_weights(folder, b_dec=with_value(torch.zeros(12), 1e6))
    owned = read_sae_folder_owned(folder)
    assert torch.isfinite(owned.build(dtype="bfloat16").b_dec).all()
    with pytest.raises(SAEFormatError, match="b_dec"):
        owned.build(dtype="float16")


def test_features_come_with_the_sae_and_must_fit_it(tmp_path: Path) -> None:
    folder = write_sae_folder(random_sae("standard"), tmp_path / "sae", features=FEATURES)
    features = read_sae_folder_owned(folder).features
    assert features is not None
    assert features.max_activation is not None
    assert features.max_activation[39] == 39.0
    other = write_sae_folder(random_sae("standard", d_sae=41), tmp_path / "other")
    (folder / FEATURE_ARRAYS_FILE).rename(other / FEATURE_ARRAYS_FILE)
    with pytest.raises(SAEFormatError, match=r"expected \[41\]"):
        read_sae_folder_owned(other)


def test_broken_features_are_refused_by_name(tmp_path: Path) -> None:
    folder = write_sae_folder(random_sae("standard"), tmp_path / "sae", features=FEATURES)
    truncate(folder, FEATURE_ARRAYS_FILE, -1)
    with pytest.raises(SAEFormatError, match=r"features\.safetensors: "):
        read_sae_folder_owned(folder)
    (folder / FEATURE_ARRAYS_FILE).unlink()
    (folder / FEATURES_FILE).write_text('{"version": 2}')
    with pytest.raises(SAEFormatError, match=r"features\.json: version"):
        read_sae_folder_owned(folder)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_something_that_is_no_file_is_refused_at_once(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    folder = write_folder(tmp_path / "sae")
    (folder / WEIGHTS_FILE).unlink()
    make(folder / WEIGHTS_FILE)
    with pytest.raises(SAEFormatError, match="not a file"):
        read_sae_folder_owned(folder)


def test_reading_while_the_folder_is_replaced_never_mixes_two_saes(tmp_path: Path) -> None:
    folder = tmp_path / "sae"
    versions = [random_sae("standard", seed=seed, d_in=12 + seed) for seed in (0, 1)]
    sums = {}
    for sae in versions:
        write_sae_folder(sae, folder)
        sums[folder_revision(folder)] = sae.W_enc.double().sum().item()
    done = threading.Event()

    def replace() -> None:
        for turn in range(60):
            write_sae_folder(versions[turn % 2], folder)
        done.set()

    writer = threading.Thread(target=replace)
    writer.start()
    reads = 0
    while not done.is_set():
        try:
            owned = read_sae_folder_owned(folder)
        except (SAENotFoundError, SAEFormatError):
            continue  # between the two renames, or among files that are being deleted
        assert owned.tensors["W_enc"].double().sum().item() == sums[owned.revision]
        reads += 1
    writer.join()
    assert reads > 0
