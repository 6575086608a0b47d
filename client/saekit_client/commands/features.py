"""saekit features"""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from saekit_client.commands.options import ADDRESS, Address, Json, connect
from saekit_client.commands.output import link, number, print_json, show, table
from saekit_client.commands.rendering import feature_name, visible
from saekit_client.registry_results import FeatureExample, FeatureInfo, TokenScore

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="What is known of features.")

SaeName = Annotated[str, typer.Argument(help="sae_id or sae_id@revision.")]


@app.command("show")
def show_features(
    *,
    sae: SaeName,
    features: Annotated[list[int] | None, typer.Argument(min=0, show_default=False)] = None,
    search: Annotated[
        str, typer.Option("--search", "-q", help="Features whose label contains this.")
    ] = "",
    tokens: Annotated[int, typer.Option(min=0, max=50, help="Logit-lens tokens each way.")] = 8,
    examples: Annotated[int, typer.Option(min=0, max=20, help="Examples.")] = 3,
    address: Address = ADDRESS,
    as_json: Json = False,
) -> None:
    """Shows features: statistics, tokens they promote, examples.

    Examples:

      saekit features show demo/res2 1234

      saekit features show demo/res2 --search dragon
    """
    if bool(features) == bool(search):
        raise typer.BadParameter("expected feature indices, or --search", param_hint="FEATURES")
    with connect(address) as client:
        found = client.get_features(
            sae, features or (), search=search, logit_lens=tokens, examples=examples
        )
    if as_json:
        print_json(found)
        return
    for feature in found.features:
        _show(feature)
    if not found.features:
        show(f"no feature of {found.sae_id} has a label with {search!r}")


@app.command()
def similar(
    sae: SaeName,
    feature: Annotated[int, typer.Argument(min=0)],
    n: Annotated[int, typer.Option("-n", min=1, max=50, help="How many.")] = 10,
    address: Address = ADDRESS,
    as_json: Json = False,
) -> None:
    """The features nearest to one, by cosine of their decoder directions.

    Example: saekit features similar demo/res2 1234 -n 5
    """
    with connect(address) as client:
        found = client.get_features(sae, feature, neighbours=n)
    if as_json:
        print_json(found)
        return
    info = found.features[0]
    made = table("feature", "cosine", title=_title(info), right=("cosine",))
    for near in info.neighbours:
        made.add_row(feature_name(near.index, {near.index: near.label}), number(near.cosine))
    show(made)
    if info.neuronpedia_url:
        show(link(info.neuronpedia_url, info.neuronpedia_url))


def _title(info: FeatureInfo) -> str:
    return feature_name(info.index, {info.index: info.label})


def _show(info: FeatureInfo) -> None:
    made = table("", "", title=_title(info))
    made.show_header = False
    made.add_row("density", "–" if info.density is None else f"{info.density:.4%}")
    made.add_row("max activation", number(info.max_activation, 2))
    made.add_row("decoder norm", number(info.decoder_norm))
    made.add_row("encoder norm", number(info.encoder_norm))
    if info.top_tokens:
        made.add_row("promotes", _scores(info.top_tokens))
        made.add_row("demotes", _scores(info.bottom_tokens))
    if info.neuronpedia_url:
        made.add_row("Neuronpedia", link(info.neuronpedia_url, info.neuronpedia_url))
    for i, example in enumerate(info.examples):
        made.add_row("examples" if i == 0 else "", _example(example))
    show(made)


def _scores(tokens: Sequence[TokenScore]) -> str:
    return "  ".join(f"{visible(t.text)!r} {t.score:+.2f}" for t in tokens)


def _example(example: FeatureExample) -> Any:
    from rich.text import Text

    text = Text()
    peak = max([*example.activations.tolist(), 1e-9])
    for token, activation in zip(example.tokens, example.activations.tolist(), strict=True):
        share = max(0.0, activation / peak)
        style = "bold reverse" if share > 0.66 else "bold" if share > 0.33 else ""
        text.append(visible(token), style=style)
    return text
