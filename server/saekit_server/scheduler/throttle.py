"""Smaller batches for a while, after the device ran out of memory."""

from saekit_server.scheduler.limits import Budget

_GROWTH = 1 + 1 / 128


class Throttle:
    """A share of the full budget that halves at once and doubles again in 89 ticks.

    Its growth is a factor, so that a batch which comes again is smaller however small it was.
    """

    def __init__(self, full: Budget) -> None:
        self._full = full
        self.share = 1.0

    def halve(self, used: Budget) -> None:
        """`used` is what the failed batch took: half of it is the new ceiling."""
        share = max(used.tokens / self._full.tokens, used.bytes / self._full.bytes)
        self.share = min(self.share, share) / 2

    def recover(self) -> None:
        """One tick has passed."""
        self.share = min(1.0, self.share * _GROWTH)

    def apply(self, budget: Budget) -> Budget:
        """The budget, or as much of it as lies under the ceiling."""
        return Budget(
            min(budget.tokens, int(self._full.tokens * self.share)),
            min(budget.bytes, int(self._full.bytes * self.share)),
        )
