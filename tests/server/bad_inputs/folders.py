"""Folders that must not be served."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tests.saes import random_sae, write_sae
from tests.server.bad_inputs.calls import D_MODEL, D_SAE, NAN, RESID

from saekit_core.sae import SAE, SAEConfig, write_sae_folder


def write_bad_folders(root: Path) -> None:
    def good(name: str, sae: SAE | None = None) -> Path:
        return write_sae(root / name, sae or random_sae(RESID, D_MODEL, seed=50))

    def weights(name: str, change: Callable[[bytes], bytes]) -> None:
        path = good(name) / "sae_weights.safetensors"
        path.write_bytes(change(path.read_bytes()))

    def header(name: str, old: bytes, new: bytes) -> None:
        def change(data: bytes) -> bytes:
            assert old in data
            assert len(old) == len(new)
            return data.replace(old, new, 1)

        weights(name, change)

    def cfg(name: str, content: str) -> None:
        (good(name) / "cfg.json").write_text(content)

    without_bos = random_sae(RESID, D_MODEL, seed=51)
    settings = without_bos.cfg.to_dict()
    settings["metadata"]["prepend_bos"] = False
    cfg_without_bos = SAEConfig.from_dict(settings)
    write_sae_folder(SAE.from_state(cfg_without_bos, without_bos.weights()), root / "without_bos")
    good("other")
    good("d_in", random_sae(RESID, D_MODEL // 2))
    good("hook", random_sae("blocks.7.hook_resid_pre", D_MODEL))
    weights("truncated", lambda data: data[:-100])
    weights("lying_length", lambda data: (2**60).to_bytes(8, "little") + data[8:])
    header("lying_shape", b'"shape":[32,96]', b'"shape":[32,97]')
    weights("overlapping", _overlap)
    weights("nan", lambda data: data[:-4] + np.float32(NAN).tobytes())
    (good("no_weights") / "sae_weights.safetensors").unlink()
    cfg("cfg_text", "{d_in: 32")
    cfg("cfg_list", "[1, 2]")
    settings = random_sae(RESID, D_MODEL).cfg.to_dict()
    cfg("cfg_d_in", json.dumps({**settings, "d_in": "wide"}))
    cfg("cfg_size", json.dumps({**settings, "d_sae": D_SAE * 2}))
    outside = write_sae(root.parent.parent / "outside", random_sae(RESID, D_MODEL))
    (root / "link").symlink_to(outside)


def _overlap(data: bytes) -> bytes:
    """The header says that two tensors share their bytes."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    names = sorted(header.keys() - {"__metadata__"}, key=lambda n: header[n]["data_offsets"])
    same_shape: dict[tuple[int, ...], str] = {}
    for name in names:
        shape = tuple(header[name]["shape"])
        if shape in same_shape:
            header[name]["data_offsets"] = header[same_shape[shape]]["data_offsets"]
            break
        same_shape[shape] = name
    else:
        raise AssertionError("no two tensors of one shape")
    made = json.dumps(header).encode()
    return len(made).to_bytes(8, "little") + made + data[8 + length :]
