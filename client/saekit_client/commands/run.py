"""saekit run"""

from math import exp
from typing import Annotated

import typer

from saekit_client.batch import Batch
from saekit_client.commands.grammar import parse_edit, parse_when
from saekit_client.commands.inputs import read_inputs
from saekit_client.commands.options import (
    ADDRESS,
    Address,
    Edits,
    ErrorTerm,
    File,
    Json,
    PreserveNorm,
    Splices,
    Texts,
    connect,
    parsed,
)
from saekit_client.commands.output import number, print_error, print_json, show, table
from saekit_client.interventions import Splice
from saekit_client.options import InputOptions, RunReturns
from saekit_client.run_results import RunResult


def run(
    *,
    texts: Texts = None,
    file: File = None,
    splice: Splices = None,
    error_term: ErrorTerm = False,
    edit: Edits = None,
    when: Annotated[
        list[str] | None,
        typer.Option(
            "--when",
            metavar="WHEN",
            help="'SAE:FEATURE > T here EDIT' or '... from-here EDIT'. May be repeated.",
            show_default=False,
        ),
    ] = None,
    preserve_norm: PreserveNorm = False,
    top: Annotated[int, typer.Option(min=1, help="Next tokens shown.")] = 5,
    compare: Annotated[
        bool, typer.Option(help="Also run clean, and ablated at the spliced hook points.")
    ] = True,
    address: Address = ADDRESS,
    as_json: Json = False,
) -> None:
    """Runs the model with SAEs spliced in and features edited: losses and next tokens.

    With --json: one line per input.

    Examples:

      saekit run "Once upon a time there was a dragon." --splice demo/res2

      saekit run "Once upon a time" --splice demo/res2 --error-term --edit "demo/res2:12 ablate"
    """
    inputs = read_inputs(texts, file)
    edits = parsed(edit, parse_edit, "--edit")
    conditions = parsed(when, parse_when, "--when")
    changed = bool(splice or edits or conditions)
    returns = RunReturns(loss=True, logits="last", top_k_logits=top, compare=compare and changed)
    with connect(address) as client:
        batch = client.run_with_saes(
            inputs,
            splices=[Splice(s, error_term) for s in splice or []],
            edits=edits,
            conditions=conditions,
            preserve_norm=preserve_norm,
            returns=returns,
            options=InputOptions(token_text=True),
        )
        next_ids = sorted(
            {int(i) for r in batch.successes if r.top_logits for i in r.top_logits.ids[0]}
        )
        texts_of = {}
        if next_ids and not as_json:
            asked = client.tokenize([[i] for i in next_ids])
            texts_of = {i: (t.pieces or ("",))[0] for i, t in zip(next_ids, asked, strict=True)}
    if as_json:
        for result in batch.successes:
            print_json(result)
    elif batch.successes:
        _show(batch, texts_of)
    for index, error in batch.errors.items():
        print_error(f"input {index}: {error.code.name}: {error}")
    if batch.errors:
        raise typer.Exit(1)


def _show(batch: Batch[RunResult], texts_of: dict[int, str]) -> None:
    compared = any(r.comparison for r in batch.successes)
    columns = ["input", "tokens", "loss"]
    columns += ["clean", "Δ loss", "ablated", "CE loss score", "KL"] if compared else []
    losses = table(*columns, right=tuple(columns), title="losses in nats per token")
    likely = table("input", "next tokens", right=("input",))
    for result in batch.successes:
        name = result.id or str(result.index)
        row = [name, str(len(result.tokens)), number(result.loss)]
        if c := result.comparison:
            row += [number(c.clean_loss), number(c.delta_loss, 4), number(c.ablated_loss)]
            row += [number(c.ce_loss_score), number(c.kl, 4)]
        losses.add_row(*row)
        likely.add_row(name, _next_tokens(result, texts_of))
    show(losses, likely)


def _next_tokens(result: RunResult, texts_of: dict[int, str]) -> str:
    top = result.top_logits
    if top is None:
        return ""
    pairs = zip(top.ids[0].tolist(), top.logprobs[0].tolist(), strict=True)
    return "  ".join(f"{texts_of[i]!r} {exp(p):.0%}" for i, p in pairs)
