"""saekit saes"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import typer

from saekit_client.commands.options import ADDRESS, Address, Json, connect
from saekit_client.commands.output import link, number, print_json, show, table
from saekit_client.registry_results import SAEInfo

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="The SAEs that a server has loaded, and those that it could load.",
)

SaeName = Annotated[str, typer.Argument(help="sae_id or sae_id@revision.")]


@app.command("list")
def list_saes(
    prefix: Annotated[str, typer.Argument(help="Only sae_ids that start with this.")] = "",
    hook: Annotated[str, typer.Option(help="Only SAEs at this hook point.")] = "",
    address: Address = ADDRESS,
    as_json: Json = False,
) -> None:
    """Lists the loaded SAEs.

    Example: saekit saes list demo/
    """
    with connect(address) as client:
        saes = client.list_saes(prefix, hook_name=hook)
    if as_json:
        print_json(saes)
    else:
        show(_table(saes))


@app.command("show")
def show_sae(sae: SaeName, address: Address = ADDRESS, as_json: Json = False) -> None:
    """Shows one SAE.

    Example: saekit saes show demo/res2
    """
    with connect(address) as client:
        details = client.get_sae(sae)
    if as_json:
        print_json(details)
        return
    made = table("", "")
    made.show_header = False
    for name, value in vars(details.info).items():
        if name == "loaded_at":
            value = f"{datetime.fromtimestamp(value).astimezone():%Y-%m-%d %H:%M:%S}"  # noqa: PLW2901
        elif name == "labels":
            value = ", ".join(f"{k}={v}" for k, v in value.items())  # noqa: PLW2901
        text = "–" if value is None or value == "" else str(value)
        made.add_row(name, link(text, value) if name == "neuronpedia_url" else text)
    show(made)


@app.command()
def load(
    *,
    source: Annotated[
        str,
        typer.Argument(
            help="release/id, hf://user/repo/path@revision, or a folder of the server's SAE root."
        ),
    ],
    sae_id: Annotated[str, typer.Option("--sae-id", help="Its name. Default: from SOURCE.")] = "",
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of one.")] = False,
    pin: Annotated[bool, typer.Option("--pin", help="Keep it loaded, beside later ones.")] = False,
    expected_revision: Annotated[str, typer.Option(help="Refuse any other revision.")] = "",
    address: Address = ADDRESS,
    as_json: Json = False,
) -> None:
    """Loads an SAE into the server; returns when it serves.

    Example: saekit saes load gpt2-small-res-jb/blocks.8.hook_resid_pre --sae-id res8
    """
    with connect(address) as client:
        loaded = client.load_sae(
            source, sae_id=sae_id, replace=replace, pin=pin, expected_revision=expected_revision
        )
    if as_json:
        print_json(loaded)
        return
    show(_table([loaded.sae]))
    if loaded.replaced_revision:
        show(f"replaced revision {loaded.replaced_revision}")


@app.command()
def unload(sae: SaeName, address: Address = ADDRESS, as_json: Json = False) -> None:
    """Unloads an SAE: all its revisions, or sae_id@revision.

    Example: saekit saes unload res8
    """
    with connect(address) as client:
        saes = client.unload_sae(sae)
    if as_json:
        print_json(saes)
    else:
        show(*(f"unloaded {info.sae_id}@{info.revision}" for info in saes))


def _table(saes: Sequence[SAEInfo]) -> object:
    numbers = ("d_sae", "L0", "expl. var.")
    made = table("sae_id", "revision", "architecture", "hook point", *numbers, right=numbers)
    for s in saes:
        hook = s.hook_name
        if s.hook_name_out not in ("", s.hook_name):
            hook += f" → {s.hook_name_out}"
        made.add_row(
            link(s.sae_id, s.neuronpedia_url),
            s.revision + (" (pinned)" if s.pinned else ""),
            s.architecture + (f" (k={s.k})" if s.k else ""),
            hook,
            str(s.d_sae),
            number(s.l0, 1),
            number(s.explained_variance),
        )
    return made
