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


def compact(sae: SAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """One matrix product, and what is above its threshold: places and values."""
    p = torch.addmm(sae.b_enc, x.to(sae.dtype), sae.W_enc)
    places = (p > sae.threshold).nonzero()
    return places, p[places[:, 0], places[:, 1]]


class _Seen(Exception):
    pass


def input_of(module: nn.Module, run: Callable[[], object]) -> Tensor:
    """What a module is given in a run, which goes no further."""
    seen: list[Tensor] = []

    def stop(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.append(args[0])
        raise _Seen

    handle = module.register_forward_pre_hook(stop)
    try:
        run()
    except _Seen:
        pass
    finally:
        handle.remove()
    return seen[0]
