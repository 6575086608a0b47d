"""What a format is: which files make an SAE of it, and what they say."""

from __future__ import annotations

import posixpath
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from saekit_core.sae.formats.files import Files
from saekit_core.sae.formats.place import Place
from saekit_core.sae.layout import FEATURE_ARRAYS_FILE, FEATURES_FILE


@dataclass(frozen=True)
class Reading:
    """What the files of an SAE say, in our words."""

    values: Mapping[str, Any]
    """Configuration: keys of `SAEConfig` and of its metadata side by side; None: not said."""
    tensors: Mapping[str, Tensor]
    """By our names, in any dtype."""
    file: str
    """The file of the weights, for messages."""
    config_file: str | None = None
    """The file of the configuration, for messages; None: that of the weights."""
    norm_scaling_factor: float | None = None
    """See `Origin.norm_scaling_factor`; None: the files do not say."""
    checked: bool = True
    """Whether all values were seen to be finite, as far as the files are to be held to that."""


@dataclass(frozen=True)
class Format(ABC):
    """A way to lay out an SAE in files. Names are relative to its folder, with ``/`` between."""

    name: str

    def locate(self, path: str) -> tuple[str, str | None]:
        """Folder and file of an SAE at `path`, as releases and repositories state it.

        The file is None where an SAE has its folder to itself.
        """
        return path, None

    @abstractmethod
    def files(self, listing: Collection[str], file: str | None = None) -> tuple[str, ...]:
        """The names in a folder's listing that determine an answer, as a revision hashes them.

        Args:
            listing: everything in the folder, or all that is said to be there.
            file: which SAE is meant, where the folder may hold several.

        Returns:
            Names in order; empty where the listing has no SAE of this format, or several.
        """

    @abstractmethod
    def wanted(self, name: str, file: str | None = None) -> bool:
        """Whether a reader has a use for a file of that name."""

    def members(self, listing: Collection[str]) -> tuple[str | None, ...]:
        """The SAEs that a listing holds by its names: file names, or None for the folder itself."""
        return (None,) if self.files(listing) else ()

    def claims(self, place: Place) -> bool:  # noqa: ARG002
        """Whether a place's name goes with this format, among those whose files look the same."""
        return True

    def holds(self, keys: Collection[str]) -> bool:  # noqa: ARG002
        """Whether tensors of these names go with it, among those whose files look the same."""
        return True

    def facts(self, place: Place) -> dict[str, Any]:  # noqa: ARG002
        """Configuration that only the names of folders and files tell; None: they do not."""
        return {}

    @abstractmethod
    def read(self, files: Files) -> Reading:
        """What the files say.

        Raises:
            SAEFormatError: naming file and key.
        """


@dataclass(frozen=True)
class FolderFormat(Format):
    """A format whose SAEs have a folder each, with files of fixed names."""

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = (FEATURES_FILE, FEATURE_ARRAYS_FILE)
    """Files that determine an answer if they are there."""
    beside: tuple[str, ...] = ()
    """Files that are read if they are there, but determine no answer."""
    mark: str = ""
    """A required file that no folder has but one that is, or is to be, of this format."""

    def begun(self, listing: Collection[str]) -> tuple[str, ...]:
        """Those of its files that are there, in a folder that is not complete (yet)."""
        if self.mark not in listing:
            return ()
        return tuple(sorted({*self.required, *self.optional} & set(listing)))

    def files(self, listing: Collection[str], file: str | None = None) -> tuple[str, ...]:
        if not set(self.required) <= set(listing) or file not in (None, *self.required):
            return ()
        return tuple(sorted({*self.required, *(n for n in self.optional if n in listing)}))

    def wanted(self, name: str, file: str | None = None) -> bool:  # noqa: ARG002
        return name in (*self.required, *self.optional, *self.beside)


@dataclass(frozen=True)
class FileFormat(Format):
    """A format whose SAEs are a file each, any number of them in a folder."""

    pattern: re.Pattern[str] = field(kw_only=True)
    """Names of such files."""
    suffixes: tuple[str, ...] = (".pt", ".pth")
    """How a file may end that is named by hand, whatever else its name is."""
    optional: tuple[str, ...] = ()
    """Files that determine an answer if they are there."""

    def companions(self, file: str) -> tuple[str, ...]:  # noqa: ARG002
        """Files that must be there with it."""
        return ()

    def locate(self, path: str) -> tuple[str, str | None]:
        folder, file = posixpath.split(path)
        return folder, file

    def files(self, listing: Collection[str], file: str | None = None) -> tuple[str, ...]:
        if file is None:
            members = self.members(listing)
            if len(members) != 1:
                return ()
            (file,) = members
        if file is None or not file.endswith(self.suffixes):
            return ()
        needed = {file, *self.companions(file)}
        if not needed <= set(listing):
            return ()
        return tuple(sorted(needed | {n for n in self.optional if n in listing}))

    def wanted(self, name: str, file: str | None = None) -> bool:
        return name in self.optional or (
            name in (file, *self.companions(file)) if file else bool(self.pattern.fullmatch(name))
        )

    def members(self, listing: Collection[str]) -> tuple[str | None, ...]:
        names = set(listing)
        return tuple(
            name
            for name in sorted(names)
            if self.pattern.fullmatch(name) and {*self.companions(name)} <= names
        )
