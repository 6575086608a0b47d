"""Loading: a wide bfloat16 SAE from disk, against reading its bytes.

python -m benchmarks.loading

65,536 features, 2,304 wide, 604 MB, in the page cache. The library maps the file, so its contender
touches every page once (the time that is not spent at load is spent at first use). The registry
reads into memory of its own, hashes and looks for NaN; its baseline does only these three.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.harness import alternate, report
from saekit_core.sae import SAE, SAEConfig, read_sae_folder_owned
from saekit_core.sae.layout import WEIGHTS_FILE

D_IN, D_SAE = 2304, 65_536
CHUNK = 1 << 20
PAGE = 4096


def main() -> None:
    """Measures and prints."""
    torch.set_grad_enabled(False)
    with tempfile.TemporaryDirectory() as scratch:
        folder = _write(Path(scratch) / "sae")
        weights = folder / WEIGHTS_FILE
        size = weights.stat().st_size / 1e6

        def units(work: Callable[[], object]) -> Callable[[], float]:
            def run() -> float:
                work()
                return size

            return run

        outcomes = alternate(
            {
                "read the bytes": units(lambda: _read(weights)),
                "library, every page touched": units(
                    lambda: _touch(SAE.load_from_disk(folder).weights().values())
                ),
            }
        )
        report("Loading in the library: 604 MB", "MB", outcomes, baseline="read the bytes")
        outcomes = alternate(
            {
                "read, hash, check": units(lambda: _read_hash_check(weights)),
                "registry": units(lambda: read_sae_folder_owned(folder).build()),
            }
        )
        report("Loading in the registry: 604 MB", "MB", outcomes, baseline="read, hash, check")


def _write(folder: Path) -> Path:
    cfg = SAEConfig(architecture="jumprelu", d_in=D_IN, d_sae=D_SAE, dtype="bfloat16")
    sae = SAE.from_config(cfg)
    sae.save_model(folder)
    return folder


def _read(path: Path) -> bytearray:
    """Every byte, into memory that is fresh as a loader's is."""
    content = bytearray(path.stat().st_size)
    with path.open("rb", buffering=0) as file:
        file.readinto(content)
    return content


def _read_hash_check(path: Path) -> str:
    data = torch.empty(path.stat().st_size, dtype=torch.uint8)
    view, sha = data.numpy().data, hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        for start in range(0, len(view), CHUNK):
            piece = view[start : start + CHUNK]
            file.readinto(piece)
            sha.update(piece)
    values = data[len(data) % 2 :].view(torch.bfloat16)
    low, high = torch.aminmax(values)
    torch.isfinite(low) & torch.isfinite(high)
    return sha.hexdigest()


def _touch(tensors: object) -> int:
    """The sum of one byte of each page."""
    total = 0
    for tensor in tensors:  # type: ignore[attr-defined]
        assert isinstance(tensor, Tensor)
        flat = tensor.detach().view(-1).view(torch.uint8)
        total += int(flat[::PAGE].sum(dtype=torch.int64))
    return total


if __name__ == "__main__":
    main()
