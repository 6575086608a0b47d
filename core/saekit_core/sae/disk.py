"""SAEs on disk: read by mapping, written as SAELens folders that appear at once or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from saekit_core.sae.errors import SAEFormatError, SAENotFoundError
from saekit_core.sae.features_file import FeaturesFile, write_features_file
from saekit_core.sae.formats import find_sae, list_names, place_of
from saekit_core.sae.formats.files import MappedFiles
from saekit_core.sae.formats.reading import read_content
from saekit_core.sae.layout import (
    ANSWER_FILES,
    CFG_FILE,
    SPARSITY_FILE,
    WEIGHTS_FILE,
    format_config,
)
from saekit_core.sae.origin import Origin
from saekit_core.sae.sae import SAE
from saekit_core.sae.safetensors_file import read_mapped
from saekit_core.sae.whole_folders import whole_folder

_OWN_FILES: Final = frozenset({*ANSWER_FILES, SPARSITY_FILE})


def read_sae_folder(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    origin: Origin | None = None,
) -> SAE:
    """Read an SAE of any format in `saekit_core.sae.formats`, a folder or a file of its own.

    On the CPU and in the dtype of the file the weights are a private mapping of it: nothing is
    copied, changes to them stay in memory, but whoever overwrites the file changes the SAE. Values
    are not looked at; `read_sae_folder_owned` does both. (What a format stores in another shape,
    and ``.npz`` files, are copied.)

    Args:
        dtype: number type to convert to; None keeps the configuration's.
        origin: what is known of it besides its files.

    Raises:
        SAENotFoundError: there is no such folder or file.
        SAEFormatError: a file is missing or broken, naming file and key.
    """
    folder = Path(path)
    if not folder.exists():
        raise SAENotFoundError(f"{folder}: no such folder")
    place = place_of(folder, origin)
    try:
        found = find_sae(place, list_names(place.folder))
    except OSError as error:
        raise SAENotFoundError(f"{folder}: {error.strerror}") from None
    files = MappedFiles(found.place.folder, found.names, found.place.file)
    content = read_content(found, files)
    sparsity = None
    if found.place.file is None:
        sparsity = _read_sparsity(found.place.folder, content.cfg.d_sae)
    cfg, tensors = content.built(device, dtype, finite=False)
    return SAE(cfg, tensors, sparsity)


def write_sae_folder(sae: SAE, path: str | Path, *, features: FeaturesFile | None = None) -> Path:
    """Write an SAE as a SAELens v6 folder, replacing the SAE that is there.

    The folder is written aside and renamed; one in the way is first renamed to a dot-name, and
    deleted in the end. Files in it that are no part of an SAE (a README) move to the new folder. A
    features file of the old SAE does not: it would describe other features.

    Returns:
        The folder's absolute path.

    Raises:
        SAEFormatError: the features file does not fit the SAE.
        OSError: the folder cannot be written.
    """
    if features is not None:
        features.check(sae.cfg.d_sae)
    target = Path(path).resolve()
    with whole_folder(target, own_files=_OWN_FILES) as aside:
        (aside / CFG_FILE).write_bytes(format_config(sae.cfg))
        save_file(_saveable(sae.weights()), aside / WEIGHTS_FILE)
        if sae.sparsity is not None:
            save_file(_saveable({"sparsity": sae.sparsity}), aside / SPARSITY_FILE)
        if features is not None:
            write_features_file(aside, features)
        for file in aside.iterdir():
            # safetensors writes for its owner alone; others may read as they may read cfg.json.
            file.chmod((aside / CFG_FILE).stat().st_mode)
    return target


def _saveable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    saved: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().contiguous()
        # The library refuses tensors that share memory, such as a tied encoder and decoder.
        tied = any(flat.data_ptr() == other.data_ptr() for other in saved.values())
        saved[name] = flat.clone() if tied else flat
    return saved


def _read_sparsity(folder: Path, d_sae: int) -> Tensor | None:
    path = folder / SPARSITY_FILE
    if not path.exists():
        return None
    sparsity = read_mapped(path).get("sparsity")
    if sparsity is None or tuple(sparsity.shape) != (d_sae,):
        found = None if sparsity is None else list(sparsity.shape)
        raise SAEFormatError(
            f"{SPARSITY_FILE}: sparsity has shape {found}, expected [{d_sae}]", field="sparsity"
        )
    return sparsity.clone()
