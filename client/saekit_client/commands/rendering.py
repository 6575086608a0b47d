"""Tokens and features in colour."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from saekit_client.commands.output import table
from saekit_client.results import SAEEncoding, Tokens

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

# Colours of the strongest features of a text, told apart on light and dark terminals.
_PALETTE = ("red", "green", "yellow", "blue", "magenta", "cyan")


def visible(piece: str) -> str:
    """A token's text with its white space shown."""
    return piece.replace("\n", "⏎").replace("\t", "⇥") or "∅"


def heat_text(tokens: Tokens, strengths: Sequence[float]) -> "Text":
    """The text, each token on a background as strong as its value; values are >= 0."""
    from rich.text import Text

    text = Text()
    peak = max([*strengths, 1e-9])
    for piece, strength in zip(pieces(tokens), strengths, strict=True):
        share = strength / peak
        # White to orange; dark letters read on all of it.
        red, green, blue = 255, round(255 - 115 * share), round(255 - 225 * share)
        text.append(piece, style=f"black on rgb({red},{green},{blue})")
    return text


def pieces(tokens: Tokens) -> Sequence[str]:
    """The text of each token; its id where the text was not asked for."""
    return tokens.pieces or [f"⟨{i}⟩" for i in tokens.ids]


def token_strengths(encoding: SAEEncoding, tokens: Tokens) -> list[float]:
    """Largest activation at each token; 0 at special tokens, which would outshine the rest."""
    csr = encoding.csr
    strongest = np.zeros(len(tokens), dtype=np.float64)
    rows = csr.row_of_each()
    at = rows if encoding.positions is None else encoding.positions[rows]
    np.maximum.at(strongest, at, csr.data)
    strongest[tokens.special] = 0.0
    return [float(s) for s in strongest]


def feature_name(feature: int, labels: Mapping[int, str]) -> str:
    """`#12 label`, or `#12` for a feature without one."""
    return f"#{feature} {labels[feature]}" if labels.get(feature) else f"#{feature}"


def token_table(
    encoding: SAEEncoding, tokens: Tokens, labels: Mapping[int, str], k: int
) -> "Table":
    """A row per token: its text and its k strongest features."""
    from rich.text import Text

    made = table("token", "strongest features")
    strengths = token_strengths(encoding, tokens)
    peak = max([*strengths, 1e-9])
    colours: dict[int, str] = {}
    for row in range(encoding.csr.shape[0]):
        at = row if encoding.positions is None else int(encoding.positions[row])
        line = Text()
        for feature, value in encoding.top(row, k):
            colour = colours.setdefault(feature, _PALETTE[len(colours) % len(_PALETTE)])
            if line:
                line.append("  ")
            line.append(feature_name(feature, labels), style=colour)
            line.append(f" {value:.2f}", style="dim")
        style = "dim" if tokens.special[at] else ("bold" if strengths[at] > peak / 2 else "")
        made.add_row(Text(visible(pieces(tokens)[at]), style=style), line)
    return made


def feature_table(
    encoding: SAEEncoding, tokens: Tokens | None, labels: Mapping[int, str], k: int
) -> "Table":
    """The k features with the largest activations, and where they have them."""
    csr = encoding.csr
    made = table("feature", "activation", "rows", "at", right=("activation", "rows"))
    rows = csr.row_of_each()
    order = np.argsort(-csr.data, kind="stable")
    features, first, counts = np.unique(csr.indices[order], return_index=True, return_counts=True)
    for i in np.argsort(first)[:k]:
        entry = order[first[i]]
        row = int(rows[entry])
        at = row if encoding.positions is None else int(encoding.positions[row])
        # A pooled row stands for the whole input.
        whole = tokens is None or (encoding.positions is None and csr.shape[0] != len(tokens))
        where = "" if whole or tokens is None else visible(pieces(tokens)[at])
        made.add_row(
            feature_name(int(features[i]), labels),
            f"{float(csr.data[entry]):.2f}",
            str(counts[i]),
            where,
        )
    return made


def top_features(encoding: SAEEncoding, k: int) -> set[int]:
    """The features among the k strongest of any row."""
    return {f for row in range(encoding.csr.shape[0]) for f, _ in encoding.top(row, k)}
