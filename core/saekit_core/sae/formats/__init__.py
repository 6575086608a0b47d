"""The formats that an SAE may be stored in, and which of them a folder or file is.

A format is recognised by the names of the files, and where those are no names of its own by the
names of the tensors in them. See docs/formats.md for the list.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from saekit_core.sae.errors import SAEFormatError
from saekit_core.sae.formats.circuit_tracer import CircuitTracer, CircuitTracerCLTLayer
from saekit_core.sae.formats.dictionary_learning import DictionaryLearning
from saekit_core.sae.formats.files import Files
from saekit_core.sae.formats.format import FolderFormat, Format
from saekit_core.sae.formats.gemma_scope import GemmaScope, GemmaScopeTranscoder
from saekit_core.sae.formats.gemma_scope_2 import GemmaScope2
from saekit_core.sae.formats.hook_z import ConnorRobHookZ
from saekit_core.sae.formats.llama_scope import LlamaScope, LlamaScopeR1Distill
from saekit_core.sae.formats.place import Place
from saekit_core.sae.formats.saelens import SAELens
from saekit_core.sae.formats.sparsify import Sparsify
from saekit_core.sae.formats.temporal import TemporalFolder
from saekit_core.sae.formats.torch_files import DeepSeekR1, Goodfire, OpenAI, QwenScope
from saekit_core.sae.layout import CFG_FILE
from saekit_core.sae.origin import Origin

__all__ = [
    "FORMATS",
    "Format",
    "Found",
    "answer_paths",
    "find_sae",
    "list_names",
    "members",
    "place_of",
]

FORMATS: Final[Mapping[str, Format]] = {
    entry.name: entry
    for entry in (
        SAELens(),
        Sparsify(),
        DictionaryLearning(),
        LlamaScope(),
        LlamaScopeR1Distill(),
        TemporalFolder(),
        GemmaScope(),
        GemmaScopeTranscoder(),
        GemmaScope2(),
        CircuitTracerCLTLayer(),
        CircuitTracer(),
        ConnorRobHookZ(),
        QwenScope(),
        Goodfire(),
        DeepSeekR1(),
        OpenAI(),
    )
}
"""Every format by its name; where two look the same by their names, the earlier comes first."""

NESTED: Final = ("checkpoints",)
"""Folders within an SAE's own that formats have files in."""


@dataclass(frozen=True)
class Found:
    """An SAE whose files were found, and which formats they may be."""

    place: Place
    names: tuple[str, ...]
    """The files that determine an answer, in the order in which a revision hashes them."""
    formats: tuple[Format, ...]
    """At least one; several where only the content tells."""

    def format(self, files: Files) -> Format:
        """The one format that the content is of.

        Raises:
            SAEFormatError: it is none of them.
        """
        if len(self.formats) == 1:
            return self.formats[0]
        keys = files.tensors().names()
        for entry in self.formats:
            if entry.holds(keys):
                return entry
        names = ", ".join(entry.name for entry in self.formats)
        raise SAEFormatError(f"{self.place.file}: holds {keys!r:.200}, which is none of {names}")


def place_of(path: Path, origin: Origin | None = None) -> Place:
    """The folder, or the file in one, that a path and what is known of it mean.

    Raises:
        SAEFormatError: the origin names a format that is not known.
    """
    origin = origin or Origin()
    if path.is_file():
        return Place(path.parent, path.name, origin)
    file: str | None = None
    if origin.format is not None:
        _, file = _by_name(origin.format).locate(origin.path)
    elif origin.path and (path / os.path.basename(origin.path)).is_file():
        file = os.path.basename(origin.path)
    return Place(path, file, origin)


def find_sae(place: Place, listing: Collection[str]) -> Found:
    """The files of the SAE at a place.

    Args:
        listing: of its folder, see `list_names`.

    Raises:
        SAEFormatError: no format, or not the one that the origin names, has its files there; or
            there are several SAEs and none is named.
    """
    if place.origin.format is not None:
        known = [_by_name(place.origin.format)]
    else:
        known = [entry for entry in FORMATS.values() if entry.claims(place)]
    fitting = [(entry, names) for entry in known if (names := entry.files(listing, place.file))]
    if not fitting:
        raise _nothing_there(place, listing, known)
    first, names = fitting[0]
    if isinstance(first, FolderFormat) and place.file in first.required:
        place = replace(place, file=None)  # a file of an SAE that has the folder to itself
    elif place.file is None and not isinstance(first, FolderFormat):
        (file,) = first.members(listing)
        place = replace(place, file=file)
    same = (entry for entry, others in fitting if others == names)
    return Found(place, names, tuple(same))


def answer_paths(path: Path, origin: Origin | None = None) -> tuple[Path, ...]:
    """The files that determine the answers of the SAE at a path.

    Raises:
        SAEFormatError: as `find_sae`.
        OSError: its folder cannot be listed.
    """
    place = place_of(path, origin)
    found = find_sae(place, list_names(place.folder))
    return tuple(place.folder / name for name in found.names)


def members(listing: Collection[str]) -> dict[str | None, tuple[str, ...]]:
    """The SAEs in a folder by names alone: files by member, None being the folder itself.

    A folder that is plainly to be one counts, whatever files it still lacks.
    """
    folders = [entry for entry in FORMATS.values() if isinstance(entry, FolderFormat)]
    for look in (FolderFormat.files, FolderFormat.begun):
        for folder in folders:
            if names := look(folder, listing):
                return {None: names}
    found: dict[str | None, tuple[str, ...]] = {}
    for entry in FORMATS.values():
        for file in entry.members(listing):
            found.setdefault(file, entry.files(listing, file))
    return found


def list_names(folder: Path | int) -> list[str]:
    """Names in a folder (a path, or a descriptor of it), those in nested ones after a slash."""
    names = os.listdir(folder)
    for name in NESTED:
        if name not in names:
            continue
        try:
            if isinstance(folder, int):
                inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=folder)
                try:
                    below = os.listdir(inner)
                finally:
                    os.close(inner)
            else:
                below = os.listdir(folder / name)
        except OSError:
            continue  # a file of that name, or gone by now
        names += [f"{name}/{entry}" for entry in below]
    return names


def _by_name(name: str) -> Format:
    if name not in FORMATS:
        known = ", ".join(FORMATS)
        raise SAEFormatError(f"format: {name!r:.40} is none of {known}", field="format")
    return FORMATS[name]


def _nothing_there(
    place: Place, listing: Collection[str], known: Collection[Format]
) -> SAEFormatError:
    several = [file for file in members(listing) if file is not None]
    if len(several) > 1 and place.file is None:
        shown = ", ".join(several[:3]) + (", …" if len(several) > 3 else "")
        return SAEFormatError(f"{place.folder}: holds several SAEs ({shown}); name one of them")
    if place.file is not None and place.file in listing:
        return SAEFormatError(
            f"{place.file}: no SAE of a known format, or a file that belongs to it is missing",
            field=place.file,
        )
    begun = [
        (len(set(entry.required) & set(listing)), -order, entry)
        for order, entry in enumerate(known)
        if isinstance(entry, FolderFormat)
    ]
    present, _, likeliest = max(begun, key=lambda item: item[:2], default=(0, 0, None))
    if likeliest is None or not present:
        missing, hint = place.file or CFG_FILE, ", and no other format is recognised in it"
    else:
        missing = next(name for name in likeliest.required if name not in listing)
        hint = "" if likeliest.name == "saelens" else f", which looks like {likeliest.name}"
    return SAEFormatError(f"{missing}: missing from {place.folder}{hint}", field=missing)
