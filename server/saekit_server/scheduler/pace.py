"""How fast the queue is worked off."""

from math import exp

_MEMORY_S = 10.0
_UNKNOWN_S = 1.0
_SHORTEST_S, _LONGEST_S = 0.1, 30.0


class Pace:
    """Tokens leaving the queue per second of work, averaged over about the last ten seconds.

    Only time in which there was work counts, or a quiet hour would make the server look slow.
    """

    def __init__(self) -> None:
        self._tokens = 0.0
        self._seconds = 0.0

    def record(self, tokens: int, seconds: float) -> None:
        """`tokens` left the queue and kept the device busy for `seconds`."""
        fading = exp(-seconds / _MEMORY_S)
        self._tokens = self._tokens * fading + tokens
        self._seconds = self._seconds * fading + seconds

    def seconds_for(self, tokens: int) -> float:
        """A guess of the seconds until so many tokens are worked off, from 0.1 to 30."""
        if self._tokens == 0 or self._seconds == 0:
            return _UNKNOWN_S
        return min(max(tokens * self._seconds / self._tokens, _SHORTEST_S), _LONGEST_S)
