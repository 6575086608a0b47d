"""`saekit saes search` and `saekit saes releases`: the directory of public SAEs, offline."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from saekit_core.directory import Entry, Release, public_releases
from saekit_core.directory.search import near, search

_SEARCH_EPILOG: Final = """\
Every word must match: release, id, path, model, repository, Neuronpedia id, hook point or
architecture. 'layer 12' asks for that layer. A number matches as a whole only.

examples:
  saekit saes search gemma layer 12
  saekit saes search gpt2-small resid_pre layer 8
  saekit saes search --release gpt2-small-res-jb
  saekit saes search qwen3-8b --limit 0 --json

What is found loads as RELEASE/ID (saekit serve --sae, saekit saes load), and in Python as
SAE.from_pretrained(RELEASE, ID).
"""


def search_saes(argv: list[str]) -> int:
    """Run `saekit saes search` with the arguments that follow it; the exit status."""
    options = _search_options(argv)
    directory = public_releases()
    releases: Iterable[Release] = directory.values()
    if options.release is not None:
        if options.release not in directory:
            return _no_release(options.release)
        releases = [directory[options.release]]
    found = search(releases, " ".join(options.words))
    shown = found[: options.limit] if options.limit else found
    if options.json:
        _print_json([_summary(entry) for entry in shown])
    elif found:
        _print_saes(shown)
        if len(found) > len(shown):
            _console().print(f"{len(shown)} of {len(found)}: more words, or --limit N (0: all)")
    if not found:
        sys.stderr.write("saekit: nothing matches; `saekit saes releases` lists what there is\n")
    return 0 if found else 1


def list_releases(argv: list[str]) -> int:
    """Run `saekit saes releases` with the arguments that follow it; the exit status."""
    parser = argparse.ArgumentParser(
        prog="saekit saes releases", description="Lists the public releases of SAEs."
    )
    parser.add_argument("words", nargs="*", metavar="WORD", help="only releases that match")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    options = parser.parse_args(argv)
    directory = public_releases()
    found = list(directory.values())
    if options.words:
        names = {entry.release for entry in search(found, " ".join(options.words))}
        found = [release for release in found if release.name in names]
    if options.json:
        _print_json([_release_summary(release) for release in found])
    elif found:
        table = _table("release", "SAEs", "model", "repository", "format", right=("SAEs",))
        for r in found:
            table.add_row(r.name, str(len(r.entries)), r.model, r.repo, r.format)
        _console().print(table)
    if not found:
        sys.stderr.write("saekit: no release matches\n")
    return 0 if found else 1


def _search_options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="saekit saes search",
        description="Finds public SAEs by words; asks no server and no network.",
        epilog=_SEARCH_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", metavar="WORD", help="what must match, in any order")
    parser.add_argument("--release", metavar="NAME", help="only SAEs of this release; lists it")
    parser.add_argument(
        "--limit", type=_count, metavar="N", help="at most so many; 0: all (20; all of a --release)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    options = parser.parse_args(argv)
    if not options.words and options.release is None:
        parser.error("give a word to look for, or --release NAME")
    if options.limit is None:
        options.limit = 0 if options.release is not None else 20
    return options


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number, 0 or more")
    return int(text)


def _no_release(name: str) -> int:
    close = near(name, public_releases())
    hint = f"near: {', '.join(close)}" if close else "`saekit saes releases` lists them"
    sys.stderr.write(f"saekit: {name}: no such release; {hint}\n")
    return 1


def _summary(entry: Entry) -> dict[str, Any]:
    facts = entry._asdict()
    return {"spec": entry.spec, **facts, "layer": entry.layer, "url": entry.url}


def _release_summary(release: Release) -> dict[str, Any]:
    return {
        "release": release.name,
        "saes": len(release.entries),
        "model": release.model,
        "repo": release.repo,
        "format": release.format,
        "config_overrides": dict(release.config_overrides),
    }


def _print_saes(entries: Iterable[Entry]) -> None:
    table = _table("release", "id", "model", "L0", "Neuronpedia", right=("L0",))
    for e in entries:
        # A terminal follows the link behind the short text; elsewhere the address is the text.
        shown = (e.neuronpedia_id if sys.stdout.isatty() else e.url) or "–"
        page = Text(shown, style=f"link {e.url}" if e.url else "")
        table.add_row(e.release, e.sae_id, e.model, "–" if e.l0 is None else f"{e.l0:g}", page)
    _console().print(table)


def _table(*columns: str, right: tuple[str, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        # What one copies must stay in one piece.
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def _console() -> Console:
    # A pipe or a file has no width to keep to.
    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 240)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
