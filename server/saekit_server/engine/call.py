"""Who calls, and until when."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Call:
    """What everyone who works for a call knows of it.

    caller: whom the queue's fairness counts it for.
    deadline: time of the engine's clock after which nobody waits for the answer; None for never.
    """

    caller: str
    deadline: float | None = None
