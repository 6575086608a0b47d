"""The figures of a run by SAE and name, as curves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from saekit_trainer.curves import Curve
from saekit_trainer.logs.jsonl_log import Record

SPEED = "tokens_per_second"


class RunHistory:
    """Curves of everything that was logged.

    Attributes:
        saes: curves of each SAE, by its name and that of the figure.
        speed: tokens per second.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.saes: dict[str, dict[str, Curve]] = {name: {} for name in names}
        self.speed = Curve()

    def add(self, name: str, tokens: float, figures: Mapping[str, float]) -> None:
        """Add figures of the SAE `name`, after it has seen so many tokens."""
        for key, value in figures.items():
            self.saes[name].setdefault(key, Curve()).add(tokens, value)

    def add_records(self, records: Iterable[Record]) -> None:
        """Add what a ``metrics.jsonl`` says of earlier steps."""
        for record in records:
            tokens = record["tokens"]
            if record.get(SPEED) is not None:
                self.speed.add(tokens, record[SPEED])
            for name in self.saes:
                start = f"{name}/" if name else ""
                own = {
                    key.removeprefix(start): value
                    for key, value in record.items()
                    if key.startswith(start) and isinstance(value, int | float)
                }
                self.add(name, tokens, own)
