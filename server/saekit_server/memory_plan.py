"""What the server means to keep in memory, before it does."""

import os
from dataclasses import dataclass

import torch
from rich.table import Table

from saekit_core.lm.model import LanguageModel
from saekit_server.errors import precondition

_GIB = 1 << 30
# Of the budget, what one batch may take for activations and outputs.
_WORKSPACE_SHARE = 0.15
_MAX_WORKSPACE = 4 * _GIB


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of device memory, by what they are for.

    total: what the device has; budget: the share of it that may be planned for.
    """

    device: str
    total: int
    budget: int
    weights: int
    slots: int
    workspace: int

    @property
    def saes(self) -> int:
        """What is left for SAEs."""
        return self.budget - self.weights - self.slots - self.workspace

    def check(self) -> None:
        """Raises FAILED_PRECONDITION for a plan that cannot fit, saying what to change."""
        if self.saes < 0:
            raise precondition(
                f"weights ({_show(self.weights)}), slots ({_show(self.slots)}) and workspace "
                f"({_show(self.workspace)}) need {_show(self.budget - self.saes)}, but the budget "
                f"is {_show(self.budget)} of {_show(self.total)}; lower --slots or --max-length, "
                "choose a smaller --dtype, or raise --memory-fraction"
            )

    def table(self) -> Table:
        """For the eyes of whoever starts the server."""
        table = Table(title=f"memory of {self.device}", title_justify="left")
        table.add_column("what")
        table.add_column("size", justify="right")
        table.add_column("of budget", justify="right")
        for name, size in (
            ("model weights", self.weights),
            ("Steer slots", self.slots),
            ("workspace", self.workspace),
            ("left for SAEs", self.saes),
            ("budget", self.budget),
        ):
            table.add_row(name, _show(size), f"{size / self.budget:.1%}")
        return table


def plan_memory(
    model: LanguageModel, *, slots: int, max_length: int, fraction: float
) -> MemoryPlan:
    """The plan of a server of this model.

    Args:
        model: loaded already.
        slots: Steer rows.
        max_length: tokens of a slot.
        fraction: share of the device's memory that may be used, in (0, 1].

    Raises:
        DomainError: it cannot fit.
    """
    if not 0 < fraction <= 1:
        raise precondition(f"--memory-fraction must be above 0 and at most 1, got {fraction}")
    total = device_bytes(model.device)
    budget = int(total * fraction)
    # The cache of one position of one slot, as the model's own layers make it.
    per_position = model.new_slots(1, 1).bytes
    plan = MemoryPlan(
        device=str(model.device),
        total=total,
        budget=budget,
        weights=model.parameter_bytes,
        slots=per_position * slots * max_length,
        workspace=min(int(budget * _WORKSPACE_SHARE), _MAX_WORKSPACE),
    )
    plan.check()
    return plan


def device_bytes(device: torch.device) -> int:
    """Memory of a device; of the machine (or its container) for a CPU and for MPS."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as file:
            limit = file.read().strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdecimal() else total


def used_bytes(device: torch.device) -> int:
    """Memory in use of a device; of this process for a CPU, 0 where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _show(size: int) -> str:
    return f"{size / _GIB:.2f} GiB" if abs(size) >= _GIB // 10 else f"{size / (1 << 20):.1f} MiB"
