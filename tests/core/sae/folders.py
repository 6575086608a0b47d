"""SAE folders for tests, sound and broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tests.core.sae.reference import random_sae
from torch import Tensor

from saekit_core.sae.layout import CFG_FILE, WEIGHTS_FILE


def write_folder(path: Path, kind: str = "standard", **options: Any) -> Path:
    random_sae(kind, **options).save_model(path)
    return path


def edit_cfg(folder: Path, **changes: Any) -> None:
    """Change keys of cfg.json; ``...`` removes one."""
    values = json.loads((folder / CFG_FILE).read_text())
    values.update(changes)
    kept = {key: value for key, value in values.items() if value is not ...}
    (folder / CFG_FILE).write_text(json.dumps(kept))


def edit_weights(folder: Path, **changes: Any) -> None:
    """Change tensors of the weights file; ``...`` removes one."""
    values = {**load_file(folder / WEIGHTS_FILE), **changes}
    save_file({k: v for k, v in values.items() if v is not ...}, folder / WEIGHTS_FILE)


def edit_header(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the header of the weights file and leave its data as they are."""
    content = (folder / WEIGHTS_FILE).read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    (folder / WEIGHTS_FILE).write_bytes(
        len(text).to_bytes(8, "little") + text + content[8 + length :]
    )


def truncate(folder: Path, name: str, keep: int) -> None:
    """Cut a file of the folder; a negative `keep` counts from its end."""
    path = folder / name
    path.write_bytes(path.read_bytes()[:keep])


def with_value(tensor: Tensor, value: float) -> Tensor:
    changed = tensor.clone()
    changed.view(-1)[-1] = value
    return changed


def half_as_long(header: dict[str, Any]) -> None:
    header["W_enc"]["data_offsets"][1] //= 2


def shared_bytes(header: dict[str, Any]) -> None:
    header["W_dec"]["data_offsets"] = header["W_enc"]["data_offsets"]


def other_shape(header: dict[str, Any]) -> None:
    header["W_enc"]["shape"] = [12, 41]


def negative_shape(header: dict[str, Any]) -> None:
    header["W_enc"]["shape"] = [-12, -40]


def past_the_end(header: dict[str, Any]) -> None:
    last = max(header, key=lambda name: header[name]["data_offsets"][1])
    header[last]["shape"][0] += 1
    header[last]["data_offsets"][1] += 4 * (header[last]["shape"] + [1])[1]


def transposed(header: dict[str, Any]) -> None:
    header["W_enc"]["shape"].reverse()


def as_integers(header: dict[str, Any]) -> None:
    header["W_enc"]["dtype"] = "I32"


def described_by_text(header: dict[str, Any]) -> None:
    header["b_dec"] = "twelve zeros"


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    # name: (how a standard folder of d_in 12, d_sae 40 is broken, what the message must say)
    "no cfg.json": (lambda f: (f / CFG_FILE).unlink(), "cfg.json: "),
    "no weights": (lambda f: (f / WEIGHTS_FILE).unlink(), "sae_weights.safetensors: "),
    "cfg.json is a list": (
        lambda f: (f / CFG_FILE).write_text("[]"),
        "cfg.json: expected an object",
    ),
    "cfg.json is no JSON": (lambda f: (f / CFG_FILE).write_text("{"), "cfg.json: no JSON"),
    "cfg.json is binary": (
        lambda f: (f / CFG_FILE).write_bytes(b"\xff\xfe\x00"),
        "cfg.json: no JSON",
    ),
    "cfg.json is huge": (lambda f: (f / CFG_FILE).write_text(" " * 2_000_000), "cfg.json: 2000000"),
    "cfg.json is nested deeply": (
        lambda f: (f / CFG_FILE).write_text("[" * 200_000),
        "cfg.json: no JSON",
    ),
    "d_in is text": (lambda f: edit_cfg(f, d_in="12"), "cfg.json: d_in: expected int, got str"),
    "d_in is true": (lambda f: edit_cfg(f, d_in=True), "cfg.json: d_in: expected int, got bool"),
    "d_in is zero": (lambda f: edit_cfg(f, d_in=0), "cfg.json: d_in: 0 is not in"),
    "d_sae is missing": (lambda f: edit_cfg(f, d_sae=...), "cfg.json: d_sae: missing"),
    "d_sae is another": (lambda f: edit_cfg(f, d_sae=41), r"W_enc: shape \[12, 40\]"),
    "dtype is unknown": (lambda f: edit_cfg(f, dtype="int8"), "cfg.json: dtype: int8"),
    "architecture is unknown": (
        lambda f: edit_cfg(f, architecture="cubic"),
        "cfg.json: architecture: 'cubic'",
    ),
    "architecture is another": (
        lambda f: edit_cfg(f, architecture="jumprelu"),
        "threshold: missing",
    ),
    "apply_b_dec_to_input is a number": (
        lambda f: edit_cfg(f, apply_b_dec_to_input=1),
        "cfg.json: apply_b_dec_to_input: expected bool, got int",
    ),
    "normalisation is unknown": (
        lambda f: edit_cfg(f, normalize_activations="batch_norm"),
        "cfg.json: normalize_activations: 'batch_norm'",
    ),
    "whitening is not folded": (
        lambda f: edit_cfg(f, normalize_activations="covariance_whitening"),
        "must be folded",
    ),
    "k is missing": (lambda f: edit_cfg(f, architecture="topk"), "cfg.json: k: None"),
    "k is negative": (lambda f: edit_cfg(f, architecture="topk", k=-1), "cfg.json: k: -1"),
    "k is above d_sae": (lambda f: edit_cfg(f, architecture="topk", k=41), "cfg.json: k: 41"),
    "metadata is a list": (
        lambda f: edit_cfg(f, metadata=[]),
        "cfg.json: metadata: expected object",
    ),
    "hook_name is a number": (
        lambda f: edit_cfg(f, metadata={"hook_name": 8}),
        "cfg.json: metadata.hook_name: expected str, got int",
    ),
    "weights are empty": (
        lambda f: truncate(f, WEIGHTS_FILE, 0),
        "sae_weights.safetensors: 0 bytes",
    ),
    "weights end in the length": (lambda f: truncate(f, WEIGHTS_FILE, 7), "7 bytes"),
    "weights end in the header": (lambda f: truncate(f, WEIGHTS_FILE, 100), "header of"),
    "weights end in the data": (
        lambda f: truncate(f, WEIGHTS_FILE, -1),
        "is said to lie at bytes",
    ),
    "weights have a huge header": (
        lambda f: (f / WEIGHTS_FILE).write_bytes((2**62).to_bytes(8, "little") + b"{}"),
        "header of 4611686018427387904 bytes",
    ),
    "the header is no JSON": (
        lambda f: (f / WEIGHTS_FILE).write_bytes((4).to_bytes(8, "little") + b"{{{{"),
        "the header is no JSON",
    ),
    "the header is a list": (
        lambda f: (f / WEIGHTS_FILE).write_bytes((2).to_bytes(8, "little") + b"[]"),
        "the header is no JSON object",
    ),
    "a tensor occurs twice": (
        lambda f: (f / WEIGHTS_FILE).write_bytes((15).to_bytes(8, "little") + b'{"a":{},"a":{}}'),
        "a key occurs twice",
    ),
    "a tensor is said to be shorter": (lambda f: edit_header(f, half_as_long), "W_enc of shape"),
    "two tensors share their bytes": (
        lambda f: edit_header(f, shared_bytes),
        "expected it to begin",
    ),
    "a tensor is said to be wider": (lambda f: edit_header(f, other_shape), "W_enc of shape"),
    "a shape is negative": (lambda f: edit_header(f, negative_shape), "W_enc has shape"),
    "a tensor reaches past the end": (lambda f: edit_header(f, past_the_end), "is said to lie at"),
    "a tensor is transposed": (lambda f: edit_header(f, transposed), r"W_enc: shape \[40, 12\]"),
    "a tensor holds integers": (lambda f: edit_header(f, as_integers), "W_enc has dtype 'I32'"),
    "a tensor is text": (lambda f: edit_header(f, described_by_text), "b_dec is described by"),
    "bytes belong to no tensor": (
        lambda f: (f / WEIGHTS_FILE).write_bytes((f / WEIGHTS_FILE).read_bytes() + b"1234"),
        "4 bytes belong to no tensor",
    ),
    "a tensor is missing": (lambda f: edit_weights(f, b_enc=...), "b_enc: missing"),
    "a tensor is superfluous": (
        lambda f: edit_weights(f, r_mag=torch.zeros(40)),
        "r_mag: standard has no such tensor",
    ),
    "a tensor has another shape": (
        lambda f: edit_weights(f, b_dec=torch.zeros(11)),
        r"b_dec: shape \[11\], expected \[12\]",
    ),
    "a scaling factor has another shape": (
        lambda f: edit_weights(f, scaling_factor=torch.ones(3)),
        r"scaling_factor: shape \[3\], expected \[40\]",
    ),
}
"""Folders that neither the library nor a server accepts."""

NOT_FINITE: dict[str, Callable[[Path], object]] = {
    "NaN in W_enc": lambda f: edit_weights(f, W_enc=with_value(torch.zeros(12, 40), float("nan"))),
    "infinity in W_dec": lambda f: edit_weights(
        f, W_dec=with_value(torch.zeros(40, 12), float("inf"))
    ),
    "minus infinity in b_enc": lambda f: edit_weights(
        f, b_enc=with_value(torch.zeros(40), -float("inf"))
    ),
}
"""Folders that a server refuses because of their values."""
