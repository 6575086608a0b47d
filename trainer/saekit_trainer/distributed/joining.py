"""How a process finds the others of its run: torchrun says where they meet."""

from __future__ import annotations

import atexit
import os
from datetime import timedelta
from typing import Any, Final

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from saekit_trainer.distributed.environment import process_count
from saekit_trainer.distributed.process_group import ProcessGroup
from saekit_trainer.distributed.ranks import ALONE, Ranks
from saekit_trainer.errors import ConfigError

_PATIENCE: Final = timedelta(hours=1)
"""How long one process may be busy alone, with writing a large folder for example. One that has
died is noticed at once, or by torchrun."""

_joined: list[ProcessGroup] = []
_stores: list[Any] = []


def join_ranks(device: str = "auto") -> Ranks:
    """The processes that train together: those that torchrun has started, if it has.

    A process group that the program has opened itself is used as it is.

    Args:
        device: auto, cuda or cpu; on machines with GPUs each process takes its own.

    Raises:
        ConfigError: there is no such device for this process.
    """
    if not dist.is_initialized():
        if process_count() == 1:
            return ALONE
        store, rank, count = next(rendezvous("env://", timeout=_PATIENCE))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=dist.PrefixStore("torch", store),  # type: ignore[attr-defined]
            rank=rank,
            world_size=count,
            timeout=_PATIENCE,
        )
        _stores[:] = [store]
        atexit.register(_leave)
    if dist.get_world_size() == 1:
        return ALONE
    _joined[:] = [ProcessGroup(device_of_rank(device), *_stores)]
    return _joined[0]


def joined_ranks() -> Ranks:
    """What `join_ranks` has returned, or `ALONE` before it has."""
    return _joined[0] if _joined else ALONE


def device_of_rank(device: str) -> str:
    """The device of this process: the GPU with its number on the machine, where there are GPUs.

    Raises:
        ConfigError: there is none for it.
    """
    kind, _, number = device.partition(":")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cpu":
        return "cpu"
    if kind != "cuda" or number:
        raise ConfigError(
            f"device: {device!r}, but several processes each have their own; expected auto, cuda "
            "or cpu",
            field="device",
        )
    local = int(os.environ.get("LOCAL_RANK", dist.get_rank()))
    if local >= torch.cuda.device_count():
        raise ConfigError(
            f"device: process {local} of this machine has no GPU, there are "
            f"{torch.cuda.device_count()}",
            field="device",
        )
    torch.cuda.set_device(local)
    return f"cuda:{local}"


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
