"""The three kinds of work that share the device."""

from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import ClassVar, TypeAlias

JobId: TypeAlias = Hashable


class Priority(IntEnum):
    """INTERACTIVE goes before BATCH; BATCH still moves once it is older than the age cap."""

    INTERACTIVE = 0
    BATCH = 1


class Kind(Enum):
    """What a job occupies the device with."""

    FORWARD = "forward"
    SAE = "sae"
    STEER = "steer"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job(ABC):
    """What every job says about itself. Subclass a kind to carry the work to be done."""

    kind: ClassVar[Kind]

    id: JobId
    """Unique among the jobs that have not ended."""

    caller: str
    """Whose job it is: callers take turns, and each has a quota."""

    priority: Priority = Priority.INTERACTIVE

    deadline: float | None = None
    """Clock time from which the answer is of no use to anybody; None waits for ever."""

    group: Hashable = None
    """Only jobs of equal groups share a batch; streams need none."""

    @property
    @abstractmethod
    def cost(self) -> int:
        """Tokens (for SAE work: rows) that the job occupies on its own; queue limits count it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ForwardJob(Job):
    """One input that needs a forward pass of the language model: Encode of text, RunWithSAEs.

    A batch of them is padded to its longest, so it costs (sum of rows) x (longest) tokens. Its
    group names the way through the model where there is more than one.
    """

    kind = Kind.FORWARD

    tokens: int
    """Length of the input."""

    rows: int = 1
    """Rows of that length; comparing a spliced run with the clean one takes 2 or 3."""

    bytes_per_token: int = 0
    """Device memory per padded token: activations, pre-activations and outputs."""

    def __post_init__(self) -> None:
        _require(self, "tokens", self.tokens, 1)
        _require(self, "rows", self.rows, 1)
        _require(self, "bytes_per_token", self.bytes_per_token, 0)

    @property
    def cost(self) -> int:
        return self.tokens * self.rows


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SAEJob(Job):
    """Work on one SAE alone, without the model: Encode of activations, Decode.

    Its group says what is done with which SAE revision: a batch is one matrix product.
    """

    kind = Kind.SAE

    rows: int
    """Rows of activations or of feature activations."""

    bytes: int = 0
    """Device memory of the whole job."""

    def __post_init__(self) -> None:
        if self.group is None:
            raise ValueError(f"SAEJob.group of job {self.id!r}: got None, expected what is done")
        _require(self, "rows", self.rows, 1)
        _require(self, "bytes", self.bytes, 0)

    @property
    def cost(self) -> int:
        return self.rows


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SteerJob(Job):
    """One stream of generated text, possibly with its unsteered twin or several choices."""

    kind = Kind.STEER

    tokens: int
    """Length of the prompt."""

    slots: int = 1
    """Key-value slots held from the first prefill to the end; each is a row of every step."""

    bytes_per_token: int = 0
    """Device memory per prefilled token and row, beside the slots themselves."""

    def __post_init__(self) -> None:
        _require(self, "tokens", self.tokens, 1)
        _require(self, "slots", self.slots, 1)
        _require(self, "bytes_per_token", self.bytes_per_token, 0)

    @property
    def cost(self) -> int:
        return self.tokens * self.slots


def _require(job: Job, field: str, value: int, least: int) -> None:
    if value < least:
        name = f"{type(job).__name__}.{field} of job {job.id!r}"
        raise ValueError(f"{name}: got {value}, expected at least {least}")
