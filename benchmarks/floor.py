"""The least that has to be done in process: what a careful program without a server does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from saekit_core.sae import SAE

BATCH: Final = 32
BLOCK_ROWS: Final = 1024
Ids = npt.NDArray[np.int64]


def encode_floor(
    hf: nn.Module, block: nn.Module, sae: SAE, rows: Sequence[Ids], *, batch: int = BATCH
) -> float:
    """Length-sorted padded batches through the plain modules, one product, one compaction.

    Args:
        hf: the Hugging Face model, with its fastest attention.
        block: the module before which it ends; its input is what is encoded.
        sae: a jumprelu SAE.
        rows: token ids.
        batch: rows of one pass.

    Returns:
        Tokens encoded.
    """
    ordered = sorted(rows, key=len)
    for start in range(0, len(ordered), batch):
        part = ordered[start : start + batch]
        ids = np.zeros((len(part), len(part[-1])), np.int64)
        for row, new in zip(ids, part, strict=True):
            row[: len(new)] = new
        real = torch.from_numpy(np.arange(ids.shape[1]) < np.array([[len(r)] for r in part]))
        h = input_of(block, partial(hf, input_ids=torch.from_numpy(ids), use_cache=False))
        compact(sae, h[real])
    return float(sum(len(row) for row in rows))


def compact(sae: SAE, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The matrix product, and what is above its threshold: flat places and values, by blocks.

    A block's dense product is written to the same memory each time: fresh gigabytes cost as much
    as the product itself.
    """
    p = torch.empty(min(BLOCK_ROWS, len(x)), sae.cfg.d_sae, dtype=sae.dtype)
    found = []
    for start in range(0, len(x), BLOCK_ROWS):
        block = x[start : start + BLOCK_ROWS].to(sae.dtype)
        here = torch.addmm(sae.b_enc, block, sae.W_enc, out=p[: len(block)]).view(-1)
        above = here.view(len(block), -1) > sae.threshold
        places = torch.from_numpy(np.flatnonzero(above.numpy()))
        found.append((places, here[places]))
    return found


class _SeenError(Exception):
    """The input that was wanted has been seen."""


def input_of(module: nn.Module, run: Callable[[], object]) -> Tensor:
    """What a module is given in a run, which goes no further."""
    seen: list[Tensor] = []

    def stop(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.append(args[0])
        raise _SeenError

    handle = module.register_forward_pre_hook(stop)
    try:
        run()
    except _SeenError:
        pass
    finally:
        handle.remove()
    return seen[0]
