"""Broken, hostile and ambiguous files of foreign formats: refused by name, and nothing is run."""

import io
import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.core.sae import foreign as folders
from tests.core.sae.folders import truncate
from tests.core.sae.foreign import Case
from tests.core.sae.test_formats import CASES, write

from saekit_core.sae import (
    Origin,
    SAEError,
    SAEFormatError,
    SAENotFoundError,
    read_sae_folder,
    read_sae_folder_owned,
)

READERS = [read_sae_folder, read_sae_folder_owned]
ONE_OF_EACH = [
    name
    for name in CASES
    if "," not in name or name in ("dictionary_learning, AutoEncoder", "gemma_scope_2, affine")
]


def stored(case: Case) -> dict[str, Any]:
    if case.weights.suffix == ".npz":
        with np.load(case.weights) as arrays:
            return {key: torch.from_numpy(arrays[key]) for key in arrays}
    if case.weights.suffix == ".safetensors":
        return dict(load_file(case.weights))
    return dict(torch.load(case.weights, weights_only=True))


def store(case: Case, **changes: Any) -> None:
    """Change entries of the weights file; ``...`` removes one."""
    values = {key: value for key, value in {**stored(case), **changes}.items() if value is not ...}
    save = {".npz": folders.save_npz, ".safetensors": folders.save_tensors}
    save.get(case.weights.suffix, folders.save_torch)(values, case.weights)


def refusal(case: Case, read: Callable[..., object]) -> SAEFormatError:
    with pytest.raises(SAEFormatError) as caught:
        read(case.path, origin=case.origin)
    assert caught.value.__cause__ is None
    return caught.value


@pytest.mark.filterwarnings("ignore:a layer of a cross-layer")
@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_broken_file_is_refused_by_its_name_and_the_tensor_s(
    tmp_path: Path, name: str, read: Callable[..., object]
) -> None:
    case = write(tmp_path, name)
    file = re.escape(case.weights.name)
    sound = case.weights.read_bytes()
    matrix = stored(case)[case.key]

    store(case, **{case.key: matrix[:-1].contiguous()})
    error = refusal(case, read)
    assert re.match(rf"(checkpoints/)?{file}: .+: shape \[", str(error)), error

    case.weights.write_bytes(sound)
    store(case, unheard_of=torch.zeros(3))
    error = refusal(case, read)
    assert re.match(rf"(checkpoints/)?{file}: unheard_of: ", str(error)), error
    assert error.field == "unheard_of"

    case.weights.write_bytes(sound)
    store(case, **{case.key: ...})
    assert case.key in str(refusal(case, read))

    for keep in (0, 10, len(sound) // 2, -1):
        case.weights.write_bytes(sound[:keep])
        assert re.match(rf"(checkpoints/)?{file}: ", str(refusal(case, read)))


@pytest.mark.filterwarnings("ignore:a layer of a cross-layer")
@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize("value", [float("nan"), -float("inf")])
def test_a_value_that_is_not_finite_is_refused_by_the_owned_reader(
    tmp_path: Path, name: str, value: float
) -> None:
    case = write(tmp_path, name)
    matrix = stored(case)[case.key].clone()
    matrix.view(-1)[3] = value
    store(case, **{case.key: matrix})
    read_sae_folder(case.path, origin=case.origin)  # which does not look at values
    error = refusal(case, read_sae_folder_owned)
    assert error.field == case.key
    assert "NaN or infinite" in str(error)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    "setting",
    [
        (
            folders.sparsify,
            "cfg.json",
            "d_in",
            9,
            r"shape \[20, 8\], expected \[d_sae=20, d_in=9\]",
        ),
        (folders.sparsify, "cfg.json", "k", 21, r"cfg\.json: k: 21 is not in 1\.\.d_sae=20"),
        (folders.sparsify, "cfg.json", "k", None, r"cfg\.json: k: missing"),
        (folders.sparsify, "cfg.json", "activation", "groupmax", r"cfg\.json: activation: 'group"),
        (folders.sparsify, "cfg.json", "skip_connection", True, "not supported without transcode"),
        (folders.sparsify, "cfg.json", "num_latents", "many", "num_latents: expected int, got str"),
        (
            folders.dictionary_learning,
            "config.json",
            "trainer",
            {},
            r"trainer\.dict_class: missing",
        ),
        (
            folders.dictionary_learning,
            "config.json",
            "trainer",
            {"dict_class": "CrossCoder"},
            "trainer.dict_class: 'CrossCoder' is not supported, only 'AutoEncoder'",
        ),
        (
            folders.dictionary_learning,
            "config.json",
            "buffer",
            {"io": "in_and_out"},
            r"buffer\.io: 'in_and_out' is not supported",
        ),
        (
            folders.llama_scope,
            "hyperparams.json",
            "act_fn",
            "topk",
            r"hyperparams\.json: act_fn: 'topk' is not supported, only 'jumprelu'",
        ),
        (
            folders.llama_scope,
            "hyperparams.json",
            "dataset_average_activation_norm",
            {"in": 0.0},
            r"dataset_average_activation_norm\.in: 0\.0 is no norm",
        ),
        (
            folders.llama_scope,
            "hyperparams.json",
            "jump_relu_threshold",
            True,
            "jump_relu_threshold: expected float, got bool",
        ),
        (
            folders.gemma_scope_2,
            "config.json",
            "architecture",
            "relu",
            r"config\.json: architecture: 'relu'",
        ),
        (
            folders.gemma_scope_2,
            "config.json",
            "affine_connection",
            True,
            "affine_skip_connection: only transcoders",
        ),
    ],
)
def test_a_setting_that_cannot_be_honoured_is_refused_by_its_key(
    tmp_path: Path,
    setting: tuple[Callable[[Path], Case], str, str, object, str],
    read: Callable[..., object],
) -> None:
    write_case, file, key, value, message = setting
    case = write_case(tmp_path)
    settings = json.loads((case.path / file).read_text())
    folders.write_json(case.path / file, {**settings, key: value})
    assert re.search(message, str(refusal(case, read))), refusal(case, read)


@pytest.mark.parametrize("read", READERS)
def test_configuration_files_that_are_none_are_refused(
    tmp_path: Path, read: Callable[..., object]
) -> None:
    case = folders.dictionary_learning(tmp_path / "a")
    for text in ("[]", "{", "\xff"):
        (case.path / "config.json").write_text(text)
        assert str(refusal(case, read)).startswith("config.json: ")
    (case.path / "config.json").write_text(" " * 2_000_000)
    assert "config.json: 2000000 bytes" in str(refusal(case, read))
    case = folders.circuit_tracer(tmp_path / "b")
    for text in ("a: [", "- 1", "!!python/object/apply:os.system ['true']"):
        (case.path.parent / "config.yaml").write_text(text)
        assert str(refusal(case, read)).startswith("config.yaml: ")


class Touch:
    """A pickle of it writes a file when it is loaded by those who load anything."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.system, (f"touch '{self.path}'",)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    "write_case", [folders.dictionary_learning, folders.goodfire, folders.openai]
)
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(
    tmp_path: Path, write_case: Callable[[Path], Case], read: Callable[..., object]
) -> None:
    case = write_case(tmp_path / "sae")
    evil = tmp_path / "it-ran"
    torch.save({**stored(case), "evil": Touch(evil)}, case.weights)
    error = refusal(case, read)
    assert not evil.exists()
    assert f"{case.weights.name}: its pickle asks for" in str(error)
    assert "system" in str(error)
    # It would have run: the file is what it is said to be.
    torch.load(case.weights, weights_only=False)
    assert evil.exists()
    evil.unlink()
    case.weights.write_bytes(pickle.dumps(Touch(evil)))  # no archive at all
    refusal(case, read)
    assert not evil.exists()


@pytest.mark.parametrize("read", READERS)
def test_an_object_array_is_refused_and_not_unpickled(
    tmp_path: Path, read: Callable[..., object]
) -> None:
    case = folders.gemma_scope(tmp_path / "sae")
    evil = tmp_path / "it-ran"
    arrays = {key: tensor.numpy() for key, tensor in stored(case).items()}
    np.savez(case.weights, **{**arrays, "b_enc": np.array([Touch(evil)] * 3, dtype=object)})
    assert "params.npz: b_enc is a pickle of objects" in str(refusal(case, read))
    assert not evil.exists()
    np.savez(case.weights, **{**arrays, "b_enc": np.arange(folders.D_SAE)})
    assert "params.npz: b_enc is dtype int64" in str(refusal(case, read))


@pytest.mark.parametrize("read", READERS)
def test_files_that_are_far_larger_than_their_bytes_are_refused_unread(
    tmp_path: Path, read: Callable[..., object]
) -> None:
    npz = folders.gemma_scope(tmp_path / "a")
    np.savez_compressed(npz.weights, W_enc=np.zeros((4096, 4096), np.float32))
    assert npz.weights.stat().st_size < 100_000
    assert "bytes of arrays in" in str(refusal(npz, read))

    # A header that claims more than there is.
    header = io.BytesIO()
    shape = (1 << 20, 1 << 20)
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    with zipfile.ZipFile(npz.weights, "w") as archive:
        archive.writestr("W_enc.npy", header.getvalue() + b"\0" * 64)
    assert "W_enc of shape [1048576, 1048576] takes" in str(refusal(npz, read))

    pt = folders.goodfire(tmp_path / "b")
    with zipfile.ZipFile(pt.weights) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(pt.weights, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    assert "is compressed, torch stores it plain" in str(refusal(pt, read))

    huge = torch.zeros(1).expand(1 << 20, 1 << 20)
    torch.save({"encoder_linear.weight": huge}, pt.weights)
    assert "no tensor whose values are all stored" in str(refusal(pt, read))


@pytest.mark.parametrize("read", READERS)
def test_torch_files_of_other_things_are_refused(
    tmp_path: Path, read: Callable[..., object]
) -> None:
    file = tmp_path / "1.pt"
    for value, message in (
        (torch.zeros(3), "holds Tensor, expected a dictionary"),
        ({1: torch.zeros(3)}, "holds dict, expected a dictionary"),
        ({"a": torch.zeros(3)}, r"holds \['a'\], which is none of qwen_scope, goodfire"),
        ({"W_enc": torch.zeros(3).to_sparse()}, "W_enc is no tensor whose values"),
        ({"W_enc": torch.zeros(3, 3).int(), "W_dec": 1, "b_enc": 1, "b_dec": 1}, "torch.int32"),
    ):
        torch.save(value, file)
        with pytest.raises(SAEFormatError, match=message):
            read(file)
    torch.save({"a": torch.zeros(3)}, file, _use_new_zipfile_serialization=False)
    with pytest.raises(SAEFormatError, match=r"1\.pt: not a file of torch\.save \(torch 1\.6"):
        read(file)


@pytest.mark.parametrize("read", READERS)
def test_what_is_not_said_anywhere_is_asked_for(tmp_path: Path, read: Callable[..., Any]) -> None:
    qwen = folders.qwen_scope(tmp_path)
    bare = tmp_path / "layer21.sae.pt"
    qwen.path.rename(bare)
    with pytest.raises(SAEFormatError, match=r"layer21\.sae\.pt: k: neither .*config_overrides"):
        read(bare)
    assert read(bare, origin=Origin(config_overrides={"k": 3})).cfg.k == 3
    r1 = folders.llama_scope_r1_distill(tmp_path, recorded=False)
    with pytest.raises(SAEFormatError, match=r"config\.json: dataset_average.*Origin"):
        read(r1.path)
    with pytest.raises(SAEFormatError, match=r"norm_scaling_factor: -1\.0 is not above 0"):
        read(r1.path, origin=Origin(norm_scaling_factor=-1.0))


@pytest.mark.parametrize("read", READERS)
def test_places_without_an_sae_say_what_is_missing(
    tmp_path: Path, read: Callable[..., object]
) -> None:
    with pytest.raises(SAENotFoundError):
        read(tmp_path / "nothing")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(SAEFormatError, match=r"cfg\.json: missing from .*no other format"):
        read(empty)
    for write_case, missing, message in (
        (folders.sparsify, "cfg.json", r"cfg\.json: missing from .*looks like sparsify"),
        (folders.dictionary_learning, "config.json", r"config\.json: missing from .*dictionary"),
        (folders.llama_scope, "checkpoints/final.safetensors", "looks like llama_scope"),
    ):
        case = write_case(tmp_path / missing.replace("/", "_"))
        (case.path / missing).unlink()
        with pytest.raises(SAEFormatError, match=message):
            read(case.path)
    layers = folders.circuit_tracer(tmp_path / "layers").path.parent
    with pytest.raises(SAEFormatError, match=r"several SAEs \(layer_10\.safetensors, layer_9"):
        read(layers)
    with pytest.raises(SAEFormatError, match=r"config\.yaml: no SAE of a known format"):
        read(layers / "config.yaml")
    with pytest.raises(SAEFormatError, match="format: 'safe' is none of saelens, sparsify"):
        read(layers, origin=Origin(format="safe"))
    clt = folders.circuit_tracer_clt_layer(tmp_path / "clt").path
    (clt.parent / "W_dec_2.safetensors").unlink()
    with pytest.raises(SAEFormatError, match=r"W_enc_2.*a file that belongs to it is missing"):
        read(clt)


@pytest.mark.parametrize("read", READERS)
def test_an_origin_names_the_file_in_a_folder_of_many(
    tmp_path: Path, read: Callable[..., Any]
) -> None:
    layers = folders.circuit_tracer(tmp_path).path.parent
    assert read(layers, origin=Origin(path="layer_10.safetensors")).cfg.hook_name == (
        "blocks.10.mlp.hook_in"
    )
    named = Origin(format="circuit_tracer", path="layer_9.safetensors", repo="mwhanna/qwen3-4b")
    assert read(layers, origin=named).cfg.hook_name == "blocks.9.mlp.hook_in"
    clt = folders.circuit_tracer_clt_layer(tmp_path).path.parent
    with pytest.warns(UserWarning, match="not for reconstruction"):
        sae = read(clt, origin=Origin(format="circuit_tracer_clt_layer", path="2", repo="mntss/x"))
    assert sae.cfg.hook_name == "blocks.2.hook_resid_mid"


def test_truncating_the_file_of_an_owned_sae_changes_nothing(tmp_path: Path) -> None:
    for case in (folders.goodfire(tmp_path), folders.gemma_scope(tmp_path)):
        sae = read_sae_folder_owned(case.path).build()
        x = torch.randn(4, folders.D_IN)
        before = sae(x)
        truncate(case.weights.parent, case.weights.name, 8)
        assert torch.equal(sae(x), before)


def test_errors_name_the_field(tmp_path: Path) -> None:
    case = folders.sparsify(tmp_path)
    store(case, b_dec=torch.zeros(3))
    with pytest.raises(SAEError) as caught:
        read_sae_folder(case.path)
    assert caught.value.field == "b_dec"
