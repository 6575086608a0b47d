"""Options that several commands share, and the connection they describe."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from saekit_client.channel import DEFAULT_ADDRESS, TLS
from saekit_client.sync.client import Client

T = TypeVar("T")

Address = Annotated[
    str,
    typer.Option(
        "--address",
        "-a",
        envvar="SAEKIT_ADDRESS",
        help="The server, HOST:PORT. SAEKIT_TOKEN holds a bearer token; SAEKIT_ROOT_CERTIFICATES "
        "(a PEM file, or 'system') turns TLS on.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Sae = Annotated[
    str | None,
    typer.Option("--sae", "-s", help="sae_id or sae_id@revision. Default: the only one loaded."),
]
Texts = Annotated[list[str] | None, typer.Argument(help="Texts.", show_default=False)]
File = Annotated[
    str | None,
    typer.Option(
        "--file",
        "-f",
        help="Texts from a file, one a line; a .jsonl file holds strings or objects with 'text', "
        "'tokens' or 'messages', and 'id'. '-' reads lines from stdin.",
    ),
]
Edits = Annotated[
    list[str] | None,
    typer.Option(
        "--edit",
        "-e",
        metavar="EDIT",
        help="'SAE:FEATURE +S[max|norm]', '=V', '*M', 'ablate', 'clip LO..HI', 'project C', "
        "'cap LO..HI'; then 'on prompt|generated|last|last:N|A..B'. May be repeated.",
        show_default=False,
    ),
]
Splices = Annotated[
    list[str] | None,
    typer.Option("--splice", help="SAE spliced into the run. May be repeated.", show_default=False),
]
ErrorTerm = Annotated[
    bool, typer.Option("--error-term", help="Splice with the error term: only edits change.")
]
PreserveNorm = Annotated[
    bool, typer.Option("--preserve-norm", help="Rescale changed positions to their old norm.")
]

ADDRESS = DEFAULT_ADDRESS


def connect(address: str) -> Client:
    """A client of the server that the options and the environment name."""
    roots = os.environ.get("SAEKIT_ROOT_CERTIFICATES")
    if roots and roots != "system" and not Path(roots).is_file():
        raise typer.BadParameter(f"SAEKIT_ROOT_CERTIFICATES: no such file {roots!r}")
    tls = TLS(None if roots == "system" else roots) if roots else None
    return Client(address, tls=tls, token=os.environ.get("SAEKIT_TOKEN"))


def parsed(texts: list[str] | None, parse: Callable[[str], T], option: str) -> list[T]:
    """Option values, parsed.

    Raises:
        typer.BadParameter: one does not parse; it names the option.
    """
    try:
        return [parse(text) for text in texts or []]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def chosen_sae(client: Client, sae: str | None) -> str:
    """The SAE asked for, or the only one loaded.

    Raises:
        typer.BadParameter: there is a choice to make.
    """
    if sae is not None:
        return sae
    ids = sorted({info.sae_id for info in client.list_saes()})
    if len(ids) != 1:
        raise typer.BadParameter(
            f"choose one of {', '.join(ids)}" if ids else "the server has no SAE loaded",
            param_hint="--sae",
        )
    return ids[0]
