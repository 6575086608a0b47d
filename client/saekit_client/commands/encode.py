"""saekit encode"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from saekit_client.batch import Batch
from saekit_client.commands.archive import archive_of
from saekit_client.commands.inputs import read_inputs
from saekit_client.commands.options import (
    ADDRESS,
    Address,
    File,
    Json,
    Sae,
    Texts,
    chosen_sae,
    connect,
)
from saekit_client.commands.output import print_error, print_json, show, table
from saekit_client.commands.rendering import (
    feature_name,
    feature_table,
    heat_text,
    token_strengths,
    token_table,
    top_features,
)
from saekit_client.inputs import Input
from saekit_client.options import InputOptions, OverLength, Pooling, RunReturns, SAEQuery
from saekit_client.results import EncodeResult, Floats
from saekit_client.sync.client import Client

_SHOWN_INPUTS = 5
_SHOWN_TOKENS = 64
_SHOWN_FEATURES = 4


def encode(
    *,
    texts: Texts = None,
    file: File = None,
    sae: Sae = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", "-k", min=1, help="Only the k largest of each row.")
    ] = None,
    pooling: Annotated[Pooling, typer.Option(help="How the rows of a text become one.")] = "none",
    over_length: Annotated[
        OverLength, typer.Option(help="What happens to texts that are too long.")
    ] = "error",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the sparse rows to an .npz file.")
    ] = None,
    activations: Annotated[
        bool,
        typer.Option("--activations", help="Also keep the model's activations in the .npz file."),
    ] = False,
    address: Address = ADDRESS,
    as_json: Json = False,
) -> None:
    """Feature activations of texts.

    Prints every token coloured by its strongest feature, and its top features. With --json: one
    line per input; a failed input is a line with "error", and the exit code is 1.

    Examples:

      saekit encode "Once upon a time there was a dragon." --sae demo/res2

      saekit encode --file corpus.txt --sae demo/res2 --top-k 32 --out features.npz

      saekit encode "Hello" --sae demo/res2@0123456789ab --pooling max --json
    """
    inputs = read_inputs(texts, file)
    if activations and out is None:
        raise typer.BadParameter("they are kept in the file of --out", param_hint="--activations")
    if activations and (pooling != "none" or over_length == "windows"):
        raise typer.BadParameter(
            "need a row for every token: not with --pooling or --over-length windows",
            param_hint="--activations",
        )
    with connect(address) as client:
        query = SAEQuery(
            chosen_sae(client, sae),
            top_k=top_k,
            pooling=pooling,
            return_state=out is not None and pooling == "none",
        )
        options = InputOptions(over_length=over_length, token_text=True)
        batch = client.encode(inputs, query, options=options)
        if out is not None and batch.successes:
            kept = _activations(client, batch.successes) if activations else None
            archive_of(batch.successes, kept).save(out)
        if as_json:
            _print_lines(batch)
        else:
            _show(client, inputs, batch, pooled=pooling != "none")
            if out is not None and batch.successes:
                show(f"wrote {out}")
    for index, error in batch.errors.items():
        print_error(f"input {index}: {error.code.name}: {error}")
    if batch.errors:
        raise typer.Exit(1)


def _activations(client: Client, results: Sequence[EncodeResult]) -> list[Floats]:
    """The model's activations at the SAE's hook point, for every row of every result."""
    hook = client.get_sae(results[0].encoding.pin).info.hook_name
    # By token ids: the very sequences that were encoded.
    runs = client.run_with_saes(
        [r.tokens.ids for r in results if r.tokens is not None],
        returns=RunReturns(activations=[hook]),
    )
    return [run.activations[hook] for run in runs]


def _print_lines(batch: Batch[EncodeResult]) -> None:
    for item in batch.items:
        if item.error is not None:
            print_json(
                {
                    "index": item.index,
                    "id": item.id,
                    "error": {"code": item.error.code.name, "message": str(item.error)},
                }
            )
        for result in item.results:
            print_json(result)


def _show(
    client: Client, inputs: Sequence[Input], batch: Batch[EncodeResult], *, pooled: bool
) -> None:
    results = batch.successes
    if not results:
        return
    sae = results[0].encoding.pin
    shown = results if len(results) <= _SHOWN_INPUTS else []
    wanted = set[int]().union(*(top_features(r.encoding, _SHOWN_FEATURES) for r in results[:50]))
    labels = feature_labels(client, sae, wanted)
    for result in shown:
        tokens, encoding = result.tokens, result.encoding
        if tokens is not None and not pooled:
            show(heat_text(tokens, token_strengths(encoding, tokens)), "")
        if tokens is not None and not pooled and len(tokens) <= _SHOWN_TOKENS:
            show(token_table(encoding, tokens, labels, _SHOWN_FEATURES))
        else:
            show(feature_table(encoding, tokens, labels, 20))
    if not shown:
        made = table("input", "tokens", "L0", "strongest features", right=("input", "tokens", "L0"))
        for result in results[:50]:
            csr = result.features
            strongest = feature_table_names(result, labels)
            made.add_row(
                result.id or str(result.index),
                str(len(result.tokens) if result.tokens is not None else csr.shape[0]),
                f"{csr.nnz / max(csr.shape[0], 1):.1f}",
                strongest,
            )
        show(made)
        if len(results) > 50:
            show(f"… and {len(results) - 50} more")
    show(f"{len(results)} of {len(inputs)} inputs, SAE {sae}, model {results[0].served_by.model}")


def feature_table_names(result: EncodeResult, labels: dict[int, str]) -> str:
    """The names of a result's strongest features."""
    best: dict[int, float] = {}
    for row in range(result.features.shape[0]):
        for feature, value in result.encoding.top(row, _SHOWN_FEATURES):
            best[feature] = max(best.get(feature, 0.0), value)
    names = sorted(best, key=lambda f: -best[f])[:_SHOWN_FEATURES]
    return ", ".join(feature_name(f, labels) for f in names)


def feature_labels(client: Client, sae: str, features: set[int]) -> dict[int, str]:
    """Labels of the features that have one."""
    if not features or not client.get_sae(sae).info.has_features:
        return {}
    known = client.get_features(sae, sorted(features)[:4096])
    return {f.index: f.label for f in known.features if f.label}
