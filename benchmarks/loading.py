"""Loading: a wide bfloat16 SAE from disk, against reading its bytes.

65,536 features, 2,304 wide, 604 MB, in the page cache. The library maps the file, so its contender
touches every page once (the time that is not spent at load is spent at first use). The registry
reads into memory of its own, hashes and looks for NaN; its baseline does only these three.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.harness import Bar, Options, Report, alternate, ratio
from saekit_core.sae import SAE, SAEConfig, read_sae_folder_owned
from saekit_core.sae.layout import WEIGHTS_FILE

D_IN, D_SAE = 2304, 65_536
CHUNK = 1 << 20
PAGE = 4096


def measure(options: Options) -> Iterator[Report]:
    """Into the library, and into the registry."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = _write(Path(scratch) / "sae")
        weights = folder / WEIGHTS_FILE
        size = weights.stat().st_size / 1e6

        def report(
            name: str, baseline: tuple[str, Callable[[], object]], ours: Callable[[], object]
        ) -> Report:
            bare, work = baseline
            outcomes = alternate(
                {bare: _units(work, size), name: _units(ours, size)}, runs=options.runs
            )
            share = 1 / ratio(outcomes, name, bare)
            return Report(
                row=f"loading-{name}",
                question=f"a wide SAE ({size:.0f} MB) into the {name}",
                unit="MB/s",
                outcomes=outcomes,
                bars=(Bar(f"time ÷ {bare}", share, most=1.3),),
            )

        yield report(
            "library",
            ("read the bytes", lambda: _read(weights)),
            lambda: _touch(SAE.load_from_disk(folder).weights().values()),
        )
        yield report(
            "registry",
            ("read, hash, check", lambda: _read_hash_check(weights)),
            lambda: read_sae_folder_owned(folder).build(),
        )


def _units(work: Callable[[], object], units: float) -> Callable[[], float]:
    def run() -> float:
        work()
        return units

    return run


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
