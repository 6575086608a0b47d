"""saekit steer"""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from saekit_client.commands.grammar import parse_edit, parse_watch, parse_when
from saekit_client.commands.options import (
    ADDRESS,
    Address,
    Edits,
    ErrorTerm,
    Json,
    PreserveNorm,
    Splices,
    connect,
    parsed,
)
from saekit_client.commands.output import console, print_json
from saekit_client.inputs import Chat
from saekit_client.interventions import Splice
from saekit_client.options import Sampling
from saekit_client.steer_events import SteerEvent, SteerFinish, SteerStart, SteerToken

if TYPE_CHECKING:
    from rich.console import Console


def steer(
    *,
    prompt: Annotated[str, typer.Argument(help="The text to continue.")],
    edit: Edits = None,
    baseline: Annotated[
        bool, typer.Option("--baseline", "-b", help="Also the unsteered text, side by side.")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", "-m", min=1)] = 64,
    temperature: Annotated[float, typer.Option("--temperature", "-t", min=0.0)] = 1.0,
    top_p: Annotated[float | None, typer.Option(min=0.0, max=1.0)] = None,
    top_k: Annotated[int | None, typer.Option(min=1)] = None,
    repetition_penalty: Annotated[float | None, typer.Option(min=0.0)] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    n: Annotated[int, typer.Option("-n", min=1, max=16, help="Independent choices.")] = 1,
    stop: Annotated[list[str] | None, typer.Option(help="End before this string.")] = None,
    when: Annotated[
        list[str] | None,
        typer.Option(
            "--when",
            metavar="WHEN",
            help="'SAE:FEATURE > T stop', '... here EDIT' or '... from-here EDIT'.",
            show_default=False,
        ),
    ] = None,
    watch: Annotated[
        list[str] | None,
        typer.Option(
            "--watch",
            metavar="SAE:F,F,...",
            help="Features reported at every token (--json).",
            show_default=False,
        ),
    ] = None,
    splice: Splices = None,
    error_term: ErrorTerm = False,
    preserve_norm: PreserveNorm = False,
    chat: Annotated[
        bool, typer.Option("--chat", help="The prompt is a user's message of a conversation.")
    ] = False,
    address: Address = ADDRESS,
    as_json: Json = False,
) -> None:
    """Generates text with features edited, as it is written.

    With --json: one line per event. An edit is SAE:FEATURE and an operation; amounts count in the
    SAE's activations, in the feature's recorded maximum ("max") or in residual norm ("norm").

    Examples:

      saekit steer "Once upon a time" --edit "demo/res2:1234 +8max" --baseline

      saekit steer "Once" --edit "demo/res2:12 =0 on generated" --temperature 0

      saekit steer "Once" --when "demo/res2:12 > 4 stop" --watch demo/res2:12 --json
    """
    with (
        connect(address) as client,
        client.steer(
            Chat([{"role": "user", "content": prompt}]) if chat else prompt,
            edits=parsed(edit, parse_edit, "--edit"),
            splices=[Splice(s, error_term) for s in splice or []],
            conditions=parsed(when, parse_when, "--when"),
            preserve_norm=preserve_norm,
            sampling=Sampling(
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                repetition_penalty=repetition_penalty,
                seed=seed,
            ),
            max_new_tokens=max_new_tokens,
            n=n,
            baseline=baseline,
            stop=stop or [],
            watch=parsed(watch, parse_watch, "--watch"),
        ) as events,
    ):
        if as_json:
            for event in events:
                print_json(
                    {"event": type(event).__name__.removeprefix("Steer").lower(), **_fields(event)}
                )
        elif n == 1 and not baseline:
            _write(prompt, events)
        else:
            side_by_side(prompt, events, console())


def _fields(event: SteerEvent) -> dict[str, object]:
    return dict(vars(event))


def _write(prompt: str, events: Iterable[SteerEvent]) -> None:
    out = sys.stdout
    out.write(prompt)
    for event in events:
        if isinstance(event, SteerToken | SteerFinish):
            out.write(event.text)
            out.flush()
    out.write("\n")


def side_by_side(
    prompt: str, events: Iterable[SteerEvent], out: "Console"
) -> dict[tuple[int, bool], str]:
    """Shows every choice and its baseline in panels that fill as the text comes.

    Returns:
        The texts, by choice and whether it is the baseline.
    """
    from rich.columns import Columns
    from rich.live import Live
    from rich.panel import Panel
    from rich.text import Text

    texts: dict[tuple[int, bool], str] = {}

    def panels() -> Columns:
        width = max(30, out.width // max(1, min(len(texts), 2)) - 2)
        shown = []
        # The baseline stands left of what it is compared with.
        for choice, unsteered in sorted(texts, key=lambda key: (key[0], not key[1])):
            body = Text(prompt, style="dim")
            body.append(texts[choice, unsteered], style="" if unsteered else "bold")
            title = "baseline" if unsteered else "steered"
            if max(c for c, _ in texts) > 0:
                title += f" {choice}"
            shown.append(
                Panel(body, title=title, width=width, border_style="" if unsteered else "green")
            )
        return Columns(shown)

    with Live(console=out, refresh_per_second=15) as live:
        for event in events:
            if isinstance(event, SteerStart):
                continue
            key = (event.choice, event.baseline)
            texts[key] = texts.get(key, "") + event.text
            live.update(panels())
    return texts
