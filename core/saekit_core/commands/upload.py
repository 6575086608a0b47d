"""`saekit upload`: SAEs to the Hugging Face Hub."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any, Final

from rich import box
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from saekit_core.sae.upload import SAERef, Upload

_EPILOG: Final = """\
The token is that of `hf auth login`, or HF_TOKEN. Each folder is loaded back before anything is
sent, and all of them make one commit.

examples:
  saekit upload ./my-sae --repo me/my-saes
  saekit upload small=runs/7 large=runs/9 --repo me/my-saes --private
  saekit upload ./my-sae --repo me/my-saes --branch v2 --json
"""


def upload(argv: list[str]) -> int:
    """Run `saekit upload` with the arguments that follow it; the exit status."""
    options = _parse(argv)
    console = Console(stderr=True)
    # Not before --help has had its say: these take a second.
    from saekit_core.sae.errors import SAEError
    from saekit_core.sae.upload import upload_saes_to_huggingface

    try:
        done = upload_saes_to_huggingface(
            _named(options.folders),
            options.repo,
            options.branch,
            show_progress=sys.stderr.isatty() and not options.quiet,
            add_default_readme=options.readme,
            private=options.private,
            replace_readme=options.replace_readme,
            commit_message=options.message,
        )
    except (SAEError, OSError) as error:
        console.print(f"[red]error:[/red] {error}", highlight=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; the repository shows nothing of it", highlight=False)
        return 130
    if options.json:
        sys.stdout.write(json.dumps(_summary(done)) + "\n")
    else:
        _print(done)
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="saekit upload",
        description="Uploads SAE folders to a Hugging Face repository, with a model card.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folders",
        nargs="+",
        metavar="[PATH=]FOLDER",
        help="an SAE's folder; it goes to PATH in the repository ('=FOLDER': to its root), by "
        "default to the name of its hook point",
    )
    parser.add_argument(
        "--repo", required=True, metavar="USER/REPO", help="made if it is missing, as public"
    )
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parser.add_argument(
        "--branch", default="main", help="made from main if it is missing (%(default)s)"
    )
    parser.add_argument("--message", metavar="TEXT", help="of the commit")
    card = parser.add_mutually_exclusive_group()
    card.add_argument(
        "--no-readme", dest="readme", action="store_false", help="leave the model card alone"
    )
    card.add_argument(
        "--replace-readme",
        action="store_true",
        help="write the model card even where the repository has one",
    )
    parser.add_argument("--quiet", "-q", action="store_true", help="no progress bars")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    return parser.parse_args(argv)


def _named(words: list[str]) -> dict[str, SAERef] | list[SAERef]:
    """What the words name; SAEs without a path are named by the library, all or none of them.

    Raises:
        SAEError: some words have a path and some have none, or one occurs twice.
    """
    from saekit_core.sae.errors import SAEError

    pairs = [word.partition("=") for word in words]
    if not any(equals for _, equals, _ in pairs):
        return list(words)
    named: dict[str, SAERef] = {}
    for word, (path, equals, folder) in zip(words, pairs, strict=True):
        if not equals:
            raise SAEError(f"{word}: give every folder a PATH= or none", field="folders")
        if path in named:
            raise SAEError(f"{word}: another folder goes to {path or '.'} too", field="folders")
        named[path] = folder
    return named


def _summary(done: Upload) -> dict[str, Any]:
    return {
        "repo_id": done.repo_id,
        "branch": done.branch,
        "commit": done.commit,
        "url": done.url,
        "private": done.private,
        "saes": [
            {
                "path": sae.path,
                "spec": done.spec(sae),
                "revision": sae.revision,
                "architecture": sae.cfg.architecture,
                "d_in": sae.cfg.d_in,
                "d_sae": sae.cfg.d_sae,
                "hook_name": sae.cfg.hook_name,
                "l0": sae.l0,
                "explained_variance": sae.explained_variance,
                "files": list(sae.files),
            }
            for sae in done.saes
        ],
    }


def _print(done: Upload) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("SAE", "architecture", "hook point"):
        table.add_column(name)
    for name in ("features", "L0", "expl. var."):
        table.add_column(name, justify="right")
    for sae in done.saes:
        table.add_row(
            done.spec(sae),
            sae.cfg.architecture,
            sae.cfg.hook_name or "–",
            str(sae.cfg.d_sae),
            "–" if sae.l0 is None else f"{sae.l0:.1f}",
            "–" if sae.explained_variance is None else f"{sae.explained_variance:.3f}",
        )
    kind = "private" if done.private else "public"
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    console.print(f"{done.url} ({kind}), commit {done.commit[:12]}", highlight=False)
