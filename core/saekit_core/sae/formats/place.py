"""Where an SAE lies, and what the names on the way there tell of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from saekit_core.sae.origin import Origin

_HOOK: Final = re.compile(
    r"(?P<hook>blocks\.\d+\.[A-Za-z0-9_.]+?|hook_embed)(?:\.(?:npz|safetensors|pth?|sae\.pt))?"
)


@dataclass(frozen=True)
class Place:
    """A folder that holds an SAE, or one file in it that is one."""

    folder: Path
    file: str | None = None
    """Name of the file, where the folder may hold several SAEs."""
    origin: Origin = field(default_factory=Origin)

    @property
    def name(self) -> str:
        """Path of the SAE as its makers laid it out, ``user/repo/path``; else the local one."""
        if self.origin.repo is not None:
            return f"{self.origin.repo}/{self.origin.path}".rstrip("/")
        # Not resolved: the Hugging Face cache links the names to places that tell nothing.
        return (self.folder / (self.file or "")).absolute().as_posix()

    def find(self, pattern: str) -> re.Match[str] | None:
        """The last match in the name: what is nearest to the SAE says most."""
        matches = list(re.finditer(pattern, self.name))
        return matches[-1] if matches else None

    def hook(self) -> str | None:
        """A folder or file of the path that is named after a hook point."""
        for part in reversed(self.name.split("/")):
            found = _HOOK.fullmatch(part)
            if found:
                return found["hook"]
        return None
