"""Folders on disk: bit-exact round trips, legacy tensors, atomic writes, refusals by name."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.core.sae.folders import BROKEN, edit_cfg, edit_weights, write_folder
from tests.core.sae.reference import KINDS, random_activations, random_sae

from saekit_core.sae import (
    SAE,
    FeaturesFile,
    SAEFormatError,
    SAENotFoundError,
    read_features_file,
    read_sae_folder,
    read_sae_folder_owned,
    write_sae_folder,
)
from saekit_core.sae.layout import CFG_FILE, SPARSITY_FILE, WEIGHTS_FILE


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("owned", [False, True])
def test_round_trip_through_disk_is_bit_exact(
    tmp_path: Path, kind: str, dtype: str, owned: bool
) -> None:
    sae = random_sae(kind, "layer_norm", dtype=dtype, reshape="hook_z")
    sae.save_model(tmp_path / "sae")
    read = (
        read_sae_folder_owned(tmp_path / "sae").build()
        if owned
        else SAE.load_from_disk(tmp_path / "sae")
    )
    assert read.cfg.to_dict() == sae.cfg.to_dict()
    assert read.weights().keys() == sae.weights().keys()
    for name, tensor in sae.weights().items():
        assert torch.equal(read.weights()[name], tensor)
        assert read.weights()[name].dtype == tensor.dtype


def test_save_model_writes_the_layout_of_saelens_6(tmp_path: Path) -> None:
    weights, cfg = random_sae("topk").save_model(tmp_path / "sae")
    assert weights == tmp_path / "sae" / "sae_weights.safetensors"
    values = json.loads(cfg.read_text())
    assert values["architecture"] == "topk"
    assert values["k"] == 5
    assert values["device"] == "cpu"
    assert values["metadata"]["sae_lens_version"].startswith("6.")
    assert load_file(weights).keys() == {"W_enc", "W_dec", "b_enc", "b_dec"}
    assert [path.name for path in tmp_path.iterdir()] == ["sae"]


def test_loading_in_another_dtype_converts_and_says_so(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "sae")
    sae = SAE.load_from_disk(folder, dtype="bfloat16")
    assert (sae.dtype, sae.cfg.dtype) == (torch.bfloat16, "bfloat16")
    assert sae.encode(random_activations(2, 12)).dtype == torch.bfloat16


def test_weights_are_converted_to_the_dtype_of_the_configuration(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "sae")
    edit_weights(folder, b_enc=torch.ones(40, dtype=torch.float16))
    assert SAE.load_from_disk(folder).b_enc.dtype == torch.float32  # type: ignore[union-attr]


def test_changing_a_loaded_sae_leaves_its_file_alone(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "sae")
    before = (folder / WEIGHTS_FILE).read_bytes()
    sae = SAE.load_from_disk(folder)
    sae.fold_W_dec_norm()
    assert (folder / WEIGHTS_FILE).read_bytes() == before
    (folder / WEIGHTS_FILE).chmod(0o400)
    assert SAE.load_from_disk(folder).W_enc.shape == (12, 40)


def test_log_threshold_is_read_as_its_exponential(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "sae", "jumprelu")
    edit_weights(folder, threshold=..., log_threshold=torch.full((40,), math.log(0.25)))
    threshold = SAE.load_from_disk(folder).threshold
    torch.testing.assert_close(threshold, torch.full((40,), 0.25), check_dtype=False)


@pytest.mark.parametrize("name", ["scaling_factor", "finetuning_scaling_factor"])
def test_a_scaling_factor_multiplies_activations_before_the_decoder(
    tmp_path: Path, name: str
) -> None:
    folder = write_folder(tmp_path / "sae")
    plain = SAE.load_from_disk(folder)
    acts = torch.rand(3, 40)
    factor = torch.rand(40) + 0.5
    expected = plain.decode(acts * factor)
    edit_weights(folder, **{name: factor})
    torch.testing.assert_close(SAE.load_from_disk(folder).decode(acts), expected)
    edit_weights(folder, **{name: torch.ones(40)})
    assert torch.equal(SAE.load_from_disk(folder).W_dec, plain.W_dec)


def test_a_flat_folder_of_saelens_5_loads_and_is_rewritten_as_version_6(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "old")
    sae = SAE.load_from_disk(folder)
    flat = {
        "d_in": 12,
        "d_sae": 40,
        "dtype": "torch.float32",
        "hook_point": "blocks.1.hook_mlp_out",
    }
    (folder / CFG_FILE).write_text(json.dumps(flat))
    old = SAE.load_from_disk(folder)
    x = random_activations(3, 12).float()
    assert torch.equal(old(x), sae(x))
    old.save_model(tmp_path / "new")
    new = SAE.load_from_disk(tmp_path / "new")
    assert new.cfg.hook_name == "blocks.1.hook_mlp_out"
    assert torch.equal(new(x), sae(x))


def test_sparsity_is_read_and_written(tmp_path: Path) -> None:
    sae = random_sae("standard")
    sae.sparsity = torch.linspace(-10, 0, 40)
    sae.save_model(tmp_path / "sae")
    read, _, sparsity = SAE.load_from_disk(tmp_path / "sae")
    assert torch.equal(sparsity, sae.sparsity)
    assert read.sparsity is sparsity
    save_file({"sparsity": torch.zeros(3)}, tmp_path / "sae" / SPARSITY_FILE)
    with pytest.raises(SAEFormatError, match="sparsity has shape"):
        SAE.load_from_disk(tmp_path / "sae")


def test_tied_and_transposed_weights_are_saved_whole(tmp_path: Path) -> None:
    shared = torch.randn(12, 12)
    cfg = random_sae("standard", d_sae=12).cfg
    zeros = torch.zeros(12)
    sae = SAE(cfg, {"W_enc": shared.mT, "W_dec": shared, "b_enc": zeros, "b_dec": zeros})
    sae.save_model(tmp_path / "sae")
    assert torch.equal(SAE.load_from_disk(tmp_path / "sae").W_enc, shared.mT)


def test_a_loaded_sae_can_be_saved_over_itself(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "sae")
    sae = SAE.load_from_disk(folder)
    x = random_activations(3, 12).float()
    before = sae(x)
    sae.save_model(folder)
    assert torch.equal(sae(x), before)
    assert torch.equal(SAE.load_from_disk(folder)(x), before)


def test_replacing_a_folder_keeps_foreign_files_and_drops_stale_features(tmp_path: Path) -> None:
    first = random_sae("standard", seed=1)
    first.sparsity = torch.zeros(40)
    folder = write_sae_folder(first, tmp_path / "sae", features=FeaturesFile(l0=3.0))
    (folder / "README.md").write_text("mine")
    second = random_sae("jumprelu", seed=2)
    second.save_model(folder)
    assert (folder / "README.md").read_text() == "mine"
    assert read_features_file(folder) is None
    assert not (folder / SPARSITY_FILE).exists()
    assert SAE.load_from_disk(folder).cfg.architecture == "jumprelu"
    assert [path.name for path in tmp_path.iterdir()] == ["sae"]


def test_a_failed_write_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "sae")
    before = (folder / WEIGHTS_FILE).read_bytes()
    sae = random_sae("standard", seed=3)
    sae.sparsity = torch.zeros(40).to_sparse()  # cannot be saved
    with pytest.raises((ValueError, RuntimeError)):
        sae.save_model(folder)
    assert (folder / WEIGHTS_FILE).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["sae"]


def test_features_of_another_width_are_not_written(tmp_path: Path) -> None:
    features = FeaturesFile(density=torch.zeros(39).numpy())
    with pytest.raises(SAEFormatError, match=r"density: shape \[39\], expected \[40\]"):
        write_sae_folder(random_sae("standard"), tmp_path / "sae", features=features)
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(SAENotFoundError):
        read_sae_folder(tmp_path / "nothing")
    with pytest.raises(SAENotFoundError):
        read_sae_folder_owned(tmp_path / "nothing")


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("read", [read_sae_folder, read_sae_folder_owned])
def test_a_broken_folder_is_refused_by_name(
    tmp_path: Path, name: str, read: Callable[[Path], object]
) -> None:
    folder = write_folder(tmp_path / "sae")
    damage, message = BROKEN[name]
    read(folder)
    damage(folder)
    with pytest.raises(SAEFormatError, match=message):
        read(folder)


def test_a_rescaled_flag_without_topk_is_kept_as_a_record(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "sae")
    edit_cfg(folder, rescale_acts_by_decoder_norm=False, k=3)
    assert SAE.load_from_disk(folder).cfg.metadata.extra["k"] == 3


def test_all_files_may_be_read_by_whoever_may_read_the_configuration(tmp_path: Path) -> None:
    folder = write_sae_folder(random_sae("jumprelu"), tmp_path / "sae")
    modes = {file.stat().st_mode for file in folder.iterdir()}
    assert len(modes) == 1
