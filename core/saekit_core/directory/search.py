"""Finding SAEs in the directory by words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from saekit_core.directory.families import natural_key
from saekit_core.directory.releases import Entry, Release

_LAYER: Final = re.compile(r"(?:^|\s)layers?[\s_=]*(\d+)(?=\s|$)")

_ARCHITECTURES: Final = {
    "circuit_tracer": "transcoder",
    "circuit_tracer_clt_layer": "transcoder",
    "connor_rob_hook_z": "standard",
    "deepseek_r1": "standard",
    "gemma_scope": "jumprelu",
    "gemma_scope_2": "jumprelu",
    "gemma_scope_transcoder": "jumprelu transcoder",
    "goodfire": "standard",
    "llama_scope": "jumprelu",
    "llama_scope_r1_distill": "jumprelu",
    "qwen_scope": "topk",
    "temporal": "temporal",
}
"""Of the formats whose files are all of one architecture."""

_ALSO: Final = (
    (re.compile(r"[-_/](?:res|resid)[-_/]|lxr_|/l\d+r$"), "residual hook_resid_post"),
    (re.compile(r"[-_/]att(?:n)?[-_/]|lxa_"), "attention"),
    (re.compile(r"[-_/]mlp[-_/]|lxm_"), "hook_mlp_out"),
    (re.compile(r"vanilla"), "standard"),
)
"""What people call what names of releases and paths abbreviate."""


@dataclass(frozen=True)
class Query:
    """What is looked for: all of it must match."""

    words: tuple[str, ...]
    layer: int | None

    @classmethod
    def parse(cls, text: str) -> Query:
        """Words in any order; ``layer 12``, ``layer=12`` or ``layer12`` asks for that layer."""
        lowered = text.lower()
        layers = {int(number) for number in _LAYER.findall(lowered)}
        rest = _LAYER.sub(" ", lowered)
        # Two layers at once are no SAE's.
        layer = layers.pop() if len(layers) == 1 else -1 if layers else None
        return cls(tuple(rest.split()), layer)


def search(releases: Iterable[Release], text: str) -> list[Entry]:
    """The SAEs that match every word, best first.

    A word matches anywhere in release, id, path, model, repository, Neuronpedia id, hook point or
    architecture; a number in it only as a whole, so that 12 finds neither 112 nor 120. SAEs that
    the words name exactly come first, then those that Neuronpedia shows.
    """
    query = Query.parse(text)
    patterns = [_Pattern(word) for word in query.words]
    found = []
    for release in releases:
        text = _shared_text(release)
        shared = [(pattern, pattern.score(text)) for pattern in patterns]
        for entry in release.entries.values():
            if query.layer is not None and entry.layer != query.layer:
                continue
            own = _own_text(entry)
            scores = [max(score, pattern.score(own)) for pattern, score in shared]
            if all(scores):
                found.append((-sum(scores), entry.neuronpedia_id is None, entry))
    found.sort(key=lambda hit: (*hit[:2], natural_key(hit[2].release), natural_key(hit[2].sae_id)))
    return [entry for *_, entry in found]


def near(wrong: str, names: Iterable[str], *, count: int = 5) -> list[str]:
    """The names that come closest to one that is none of them, best first."""
    known = list(names)
    parts = [name for name in known if wrong and wrong in name]
    close = get_close_matches(wrong, known, n=count, cutoff=0.5)
    return list(dict.fromkeys([*sorted(parts, key=natural_key), *close]))[:count]


class _Pattern:
    """One word of a query."""

    def __init__(self, word: str) -> None:
        self._word = word
        escaped = re.escape(word)
        left = r"(?<!\d)" if word[0].isdigit() else ""
        right = r"(?!\d)" if word[-1].isdigit() else ""
        self._anywhere = re.compile(f"{left}{escaped}{right}")
        self._exactly = re.compile(rf"(?<![a-z0-9]){escaped}(?![a-z0-9])")

    def score(self, text: str) -> int:
        """2: stands by itself in the text, 1: occurs in it, 0: does not."""
        if self._word not in text:
            return 0
        if self._exactly.search(text):
            return 2
        return 1 if self._anywhere.search(text) else 0


def _shared_text(release: Release) -> str:
    architecture = _ARCHITECTURES.get(release.format, "")
    return _with_names([release.name, release.repo, release.model, release.format, architecture])


def _own_text(entry: Entry) -> str:
    return _with_names([entry.sae_id, entry.path, entry.neuronpedia_id or ""])


def _with_names(texts: Sequence[str]) -> str:
    text = " ".join(texts).lower()
    # A name that stands at an end is set off as one in the middle is.
    padded = f"/{text.replace(' ', '/ /')}/"
    return " ".join([text, *(names for pattern, names in _ALSO if pattern.search(padded))])
