"""A nested state on disk: its values as JSON, its tensors as safetensors, nothing pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from saekit_core.sae.errors import SAEFormatError
from saekit_core.sae.safetensors_file import FLOATS, read_mapped
from saekit_trainer.errors import CheckpointError

STATE_FILE: Final = "state.json"
TENSORS_FILE: Final = "tensors.safetensors"
FORMAT: Final = "saekit-training-state"
VERSION: Final = 1
_TENSOR: Final = "$tensor"
_DTYPES: Final = {
    **FLOATS,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write a state into an empty folder.

    Args:
        state: mappings with names as keys, sequences, JSON values and tensors, nested at will.
            Tuples come back as lists.

    Raises:
        OSError, SafetensorError: it cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    values = {"format": FORMAT, "version": VERSION, "state": _without_tensors(state, "", tensors)}
    (folder / STATE_FILE).write_text(json.dumps(values, indent=1), encoding="utf-8")
    save_file(tensors, folder / TENSORS_FILE)
    # safetensors writes for its owner alone; others may read as they may read the JSON.
    (folder / TENSORS_FILE).chmod((folder / STATE_FILE).stat().st_mode)


def read_values(folder: Path) -> dict[str, Any]:
    """The state without its tensors, which takes no time.

    Raises:
        CheckpointError: there is none, or of another version.
    """
    file = folder / STATE_FILE
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if (values["format"], values["version"]) != (FORMAT, VERSION):
            raise CheckpointError(
                f"{file}: format {values['format']!r} version {values['version']!r}; this version "
                f"reads {FORMAT!r} version {VERSION}"
            )
        state: dict[str, Any] = values["state"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file}: no state of a run ({error!r})") from error
    return state


def read_state(folder: Path) -> dict[str, Any]:
    """The state; its tensors are private mappings of the file, on the CPU: copy what is kept.

    Raises:
        CheckpointError: there is none, of another version, or a broken one.
    """
    values = read_values(folder)
    try:
        tensors = read_mapped(folder / TENSORS_FILE, dtypes=_DTYPES)
        state: dict[str, Any] = _with_tensors(values, tensors)
    except SAEFormatError as error:
        raise CheckpointError(f"{folder}/{error}") from error
    except KeyError as error:
        raise CheckpointError(f"{folder / TENSORS_FILE}: {error} is missing") from error
    return state


def _without_tensors(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """JSON values, each tensor being named by its number and its place."""
    if isinstance(value, Tensor):
        name = f"{len(tensors)}{path}"
        flat = value.detach().cpu().contiguous()
        # An empty view would share memory with what it is a view of, which is refused.
        tensors[name] = flat if flat.numel() else flat.clone()
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        return {key: _without_tensors(v, f"{path}.{key}", tensors) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_tensors(v, f"{path}.{i}", tensors) for i, v in enumerate(value)]
    return value


def _with_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {_TENSOR}:
            return tensors[value[_TENSOR]]
        return {key: _with_tensors(v, tensors) for key, v in value.items()}
    if isinstance(value, list):
        return [_with_tensors(v, tensors) for v in value]
    return value
