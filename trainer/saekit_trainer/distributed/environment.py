"""What torchrun tells a process of the others, in its environment; needs no torch."""

from __future__ import annotations

import os
from typing import Final

_MEETING: Final = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def process_count() -> int:
    """How many processes were started together."""
    there = all(name in os.environ for name in _MEETING)
    return int(os.environ["WORLD_SIZE"]) if there else 1


def is_main_process() -> bool:
    """Whether this is the one of them that speaks for all."""
    return process_count() == 1 or os.environ["RANK"] == "0"
