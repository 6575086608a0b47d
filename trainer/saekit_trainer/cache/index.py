"""What a folder of cached activations says of itself: `cache.json`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from saekit_trainer.errors import CacheError
from saekit_trainer.samples.reading import Position

INDEX_FILE: Final = "cache.json"
FORMAT: Final = "saekit-activations"
VERSION: Final = 1


@dataclass(frozen=True)
class CachedHook:
    """A hook point whose activations are cached."""

    name: str
    """As it was asked for; the name of the tensor in the shards."""
    canonical: str
    d: int


@dataclass(frozen=True)
class CacheOrigin:
    """What the activations are of. All of it determines their values, so all of it has to be the
    same where making goes on."""

    model_name: str
    model_revision: str
    hooks: tuple[CachedHook, ...]
    dataset: str | None
    """None: text that the model wrote itself."""
    dataset_split: str
    dataset_column: str | None
    context_size: int
    prepend_bos: bool
    sequence_separator_token: int | str | None
    disable_concat_sequences: bool
    autocast_lm: bool
    batch_size_prompts: int
    dtype: str
    seed: int
    """Of the model's own text. The order in which rows are trained on comes from a run's seed."""

    def differences(self, other: CacheOrigin) -> list[str]:
        """What is not the same, as ``name: this one's, not the other's``."""
        return [
            f"{f.name}: {_plain(getattr(self, f.name))}, not {_plain(getattr(other, f.name))}"
            for f in fields(self)
            if getattr(self, f.name) != getattr(other, f.name)
        ]


@dataclass(frozen=True)
class Shard:
    """A file of whole contexts."""

    file: str
    contexts: int


@dataclass(frozen=True)
class CacheIndex:
    """The content of a folder, which is what its index says; other files do not count."""

    origin: CacheOrigin
    shards: tuple[Shard, ...] = ()
    position: Position | None = None
    """Of the data set, behind the last shard; see `ContextStream.position`."""
    memory: Any = None
    """Of the data set; see `ContextStream.origin`."""
    skipped_samples: int = 0

    @property
    def contexts(self) -> int:
        return sum(shard.contexts for shard in self.shards)

    @property
    def tokens(self) -> int:
        return self.contexts * self.origin.context_size

    def with_shard(self, shard: Shard, position: Position, memory: Any) -> CacheIndex:
        """The index after another shard."""
        return replace(
            self,
            shards=(*self.shards, shard),
            position=position,
            memory=memory,
            skipped_samples=position["skipped"],
        )

    def write(self, folder: Path) -> None:
        """Put it into the folder, at once or not at all.

        Raises:
            OSError: it cannot be written.
        """
        values = {"format": FORMAT, "version": VERSION, "tokens": self.tokens, **asdict(self)}
        aside = folder / f".{INDEX_FILE}.part"
        try:
            with aside.open("w", encoding="utf-8") as file:
                json.dump(values, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(folder / INDEX_FILE)
        except OSError:
            aside.unlink(missing_ok=True)
            raise


def read_index(folder: Path) -> CacheIndex | None:
    """The index of a folder; None if it has none.

    Raises:
        CacheError: it is not one that this version reads.
    """
    path = folder / INDEX_FILE
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["format"] != FORMAT or values["version"] != VERSION:
            raise CacheError(
                f"{path}: format {values['format']!r} version {values['version']!r}; this version "
                f"reads {FORMAT!r} version {VERSION}"
            )
        origin = _from(CacheOrigin, values["origin"])
        hooks = tuple(_from(CachedHook, hook) for hook in values["origin"]["hooks"])
        return CacheIndex(
            origin=replace(origin, hooks=hooks),
            shards=tuple(_from(Shard, shard) for shard in values["shards"]),
            position=values["position"],
            memory=values["memory"],
            skipped_samples=values["skipped_samples"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CacheError(f"{path}: no index of cached activations ({error!r})") from error


def _from(cls: type[Any], values: Mapping[str, Any]) -> Any:
    return cls(**{f.name: values[f.name] for f in fields(cls)})


def _plain(value: Any) -> Any:
    return ", ".join(hook.name for hook in value) if isinstance(value, tuple) else value
