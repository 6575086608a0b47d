"""saekit tokenize"""

from typing import Annotated

import typer

from saekit_client.commands.inputs import read_inputs
from saekit_client.commands.options import ADDRESS, Address, File, Json, Texts, connect
from saekit_client.commands.output import print_json, show, table
from saekit_client.commands.rendering import pieces, visible


def tokenize(
    texts: Texts = None,
    file: File = None,
    bos: Annotated[
        bool | None,
        typer.Option(
            "--bos/--no-bos", help="Whether a BOS goes before the text. Default: as the model."
        ),
    ] = None,
    address: Address = ADDRESS,
    as_json: Json = False,
) -> None:
    """The tokens of texts, as Encode would see them.

    With --json: one line per input.

    Example: saekit tokenize "Once upon a time"
    """
    inputs = read_inputs(texts, file)
    with connect(address) as client:
        results = client.tokenize(inputs, prepend_bos=bos)
    for tokens in results:
        if as_json:
            print_json(tokens)
            continue
        made = table("position", "id", "text", "bytes", right=("position", "id", "bytes"))
        for i, piece in enumerate(pieces(tokens)):
            span = "" if tokens.byte_offsets is None else "–".join(map(str, tokens.byte_offsets[i]))
            made.add_row(
                str(i),
                str(tokens.ids[i]),
                visible(piece),
                span,
                style="dim" if tokens.special[i] else "",
            )
        show(made)
