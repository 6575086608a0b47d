"""The directory as a file: the same bytes for the same facts. ``make directory`` writes it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from saekit_core.directory.families import pack
from saekit_core.directory.releases import NUMBERS, Entry

_OF_A_RELEASE: Final = ("repo", "format", "model", "config_overrides")


def pack_entries(entries: Iterable[Entry]) -> str:
    """The text of the file: a line per family, so that a change shows where it is.

    Raises:
        ValueError: two entries of a release have one id, or disagree on what a release has once.
    """
    releases: dict[str, dict[str, Entry]] = {}
    for entry in entries:
        saes = releases.setdefault(entry.release, {})
        if entry.sae_id in saes:
            raise ValueError(f"{entry.spec}: occurs twice")
        saes[entry.sae_id] = entry
    packed = (_release(name, list(saes.values())) for name, saes in sorted(releases.items()))
    return "{\n" + ",\n".join(packed) + "\n}\n"


def _release(name: str, saes: list[Entry]) -> str:
    first = saes[0]
    for fact in _OF_A_RELEASE:
        if any(getattr(sae, fact) != getattr(first, fact) for sae in saes):
            raise ValueError(f"{name}: its SAEs differ in {fact}")
    head = {fact: value for fact in _OF_A_RELEASE if (value := getattr(first, fact))}
    families = ",\n".join(f"  {_json(family)}" for family in pack(map(_facts, saes)))
    text = json.dumps(head, ensure_ascii=False, sort_keys=True)
    return f'{_json(name)}: {text[:-1]}, "saes": [\n{families}]}}'


def _facts(sae: Entry) -> dict[str, str]:
    facts = {"id": sae.sae_id, "path": sae.path}
    if sae.neuronpedia_id is not None:
        facts["neuronpedia_id"] = sae.neuronpedia_id
    for name in NUMBERS:
        value = getattr(sae, name)
        if value is not None:
            # Shorter than 60.0, and the same number.
            facts[name] = repr(int(value) if float(value).is_integer() else float(value))
    return facts


def _json(value: Mapping[str, Any] | str) -> str:
    return json.dumps(value, ensure_ascii=False)
