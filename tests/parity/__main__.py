"""Holds saekit to sae-lens, both ways: ``python -m tests.parity --peer PYTHON`` (``make parity``).

A *part* is a module ``NAME.py`` here with ``run(peer, folder) -> list[Section]``, beside a script
``sae_lens_NAME.py`` that answers in the other environment. Every such pair is run.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from rich.console import Console
from tests.parity.peer import HERE, Peer
from tests.parity.report import Section, write

PREFIX = "sae_lens_"
DOCUMENT = HERE.parents[1] / "docs" / "compatibility.md"


def parts() -> list[str]:
    """Names of the parts, in alphabetical order."""
    names = (path.stem.removeprefix(PREFIX) for path in HERE.glob(f"{PREFIX}*.py"))
    return sorted(name for name in names if (HERE / f"{name}.py").exists())


def heading(peer: Peer) -> str:
    """When this was, and of what."""
    ours = f"torch {version('torch')}, transformer-lens {version('transformer-lens')}"
    theirs = ", ".join(f"{name} {value}" for name, value in peer.versions.items())
    today = datetime.now(UTC).date().isoformat()
    return f"Run on {today}, on a CPU. saekit {version('saekit')}: {ours}. The peer: {theirs}."


def main() -> int:
    parser = argparse.ArgumentParser(prog="make parity", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--peer", required=True, help="a Python that has sae-lens")
    parser.add_argument("--only", choices=parts(), action="append", help="run some parts alone")
    parser.add_argument("--keep", type=Path, help="keep what the two exchange in this folder")
    parser.add_argument("--write-golden", action="store_true", help="renew the golden files too")
    arguments = parser.parse_args()
    peer, console = Peer(arguments.peer), Console(width=None if sys.stdout.isatty() else 120)
    sections: list[Section] = []
    with tempfile.TemporaryDirectory() as temporary:
        base = arguments.keep or Path(temporary)
        for name in arguments.only or parts():
            part = importlib.import_module(f"tests.parity.{name}")
            folder = base / name
            folder.mkdir(parents=True)
            found: list[Section] = part.run(peer, folder)
            for section in found:
                section.show(console)
            sections += found
            if arguments.write_golden and hasattr(part, "write_golden"):
                part.write_golden(peer, base / f"{name}-golden")
    if arguments.only:
        console.print(f"{DOCUMENT.name} is left alone: only some parts were run")
    else:
        write(sections, heading(peer), DOCUMENT)
    failures = [f"{s.title}: {failure}" for s in sections for failure in s.failures]
    console.print(f"{len(failures)} cells disagree" if failures else "Every cell agrees")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
