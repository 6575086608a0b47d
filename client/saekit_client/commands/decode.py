"""saekit decode"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from saekit_client.commands.archive import Archive, explained_variance
from saekit_client.commands.options import ADDRESS, Address, Json, connect
from saekit_client.commands.output import number, print_json, show, table
from saekit_client.results import Floats


def decode(
    archive: Annotated[Path, typer.Argument(help="The .npz file of `saekit encode --out`.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write the activations [rows, d_out] to an .npz file."),
    ] = None,
    address: Address = ADDRESS,
    as_json: Json = False,
) -> None:
    """Activations that feature activations stand for.

    Decodes with the revision that encoded. If the file has the model's activations (`saekit encode
    --activations`), also prints the explained variance over the tokens that are not special.

    Examples:

      saekit encode "Once upon a time" --sae demo/res2 --activations --out f.npz

      saekit decode f.npz --out reconstruction.npz
    """
    try:
        features = Archive.load(archive)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="ARCHIVE") from error
    with connect(address) as client:
        results = list(client.decode(features.items()))
    activations = np.concatenate([r.activations for r in results])
    if out is not None:
        with out.open("wb") as file:
            np.savez(file, activations=activations, row_input=features.row_input)
    _report(features, activations, out, as_json)


def _report(features: Archive, activations: Floats, out: Path | None, as_json: bool) -> None:
    plain = ~features.row_special
    variance = None
    if features.activations is not None and plain.sum() > 1:
        variance = explained_variance(features.activations[plain], activations[plain])
    norms = np.linalg.norm(activations.reshape(len(activations), -1), axis=1)
    report = {
        "sae": features.sae,
        "rows": len(activations),
        "shape": list(activations.shape),
        "mean_norm": float(norms[plain].mean()) if plain.any() else None,
        "explained_variance": variance,
        "out": None if out is None else str(out),
    }
    if as_json:
        # Without a file the numbers themselves are what was asked for.
        print_json(report if out is not None else {**report, "activations": activations})
        return
    made = table("", "", right=("",))
    made.show_header = False
    made.add_row("SAE", features.sae)
    made.add_row("activations", " × ".join(str(n) for n in activations.shape))
    made.add_row("mean norm", number(report["mean_norm"]))  # type: ignore[arg-type]
    made.add_row(
        "explained variance",
        number(variance) if variance is not None else "– (encode with --activations to know)",
    )
    show(made)
    if out is not None:
        show(f"wrote {out}")
