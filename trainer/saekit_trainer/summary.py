"""What the terminal says of a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from saekit_trainer.display import duration

_SIDE_BY_SIDE: Final = 3
_FIRST_COLUMN: Final = len("explained variance")


def print_summaries(summaries: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    """A column of figures per SAE, or a table after the other where there are many.

    Args:
        summaries: those of `TrainingResult.summary`, with ``sae_id``, ``published``, ``serve`` and
            ``uploaded`` where there are such.
        console: where to.
    """
    names = list(summaries)
    for start in range(0, len(names), _SIDE_BY_SIDE):
        some = names[start : start + _SIDE_BY_SIDE]
        columns = [_figures(summaries[name]) for name in some]
        table = Table(box=None, show_header=len(names) > 1)
        table.add_column()
        for name in some:
            table.add_column(Text(name), header_style="bold", overflow="fold")
        for row in columns[0]:
            values = [column[row] for column in columns]
            if any(values):
                table.add_row(Text(row, style="bold"), *map(Text, values))
        console.print(table)
    places: dict[tuple[str, str], None] = {}
    for summary in summaries.values():
        places |= dict.fromkeys(_places(summary))
    for what, place in places:
        line = Text.assemble(" ", (f"{what:<{_FIRST_COLUMN}}", "bold"), "  ", place)
        console.print(line, soft_wrap=True)  # paths and commands are to be copied


def _figures(summary: Mapping[str, Any]) -> dict[str, str]:
    evaluation = summary["evaluation"]
    skipped = summary["skipped_samples"]
    return {
        "SAE": f"{summary['architecture']}, {summary['d_sae']} features at {summary['hook_name']}",
        "trained on": f"{summary['training_tokens']:,} tokens in {duration(summary['seconds'])}, "
        f"{summary['tokens_per_second']:,.0f} a second",
        "explained variance": f"{evaluation['explained_variance']:.4f}",
        "L0": f"{evaluation['l0']:.1f}",
        "CE loss score": f"{evaluation['ce_loss_score']:.4f}",
        "KL score": f"{evaluation['kl_score']:.4f}",
        "loss": f"{summary['loss']:.4g}",
        "dead features": f"{evaluation['dead_features']} of {summary['d_sae']}, on "
        f"{evaluation['tokens']:,} held-out tokens",
        "left out": f"{skipped:,} broken samples" if skipped else "",
    }


def _places(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Where to look and what to type next."""
    published = summary.get("published")
    places = {
        "written to": summary["folder"],
        "published as": f"{summary['sae_id']} {published}" if published else None,
        "uploaded to": summary.get("uploaded"),
        "report": summary["report"],
        "serve it": summary.get("serve"),
    }
    return [(what, place) for what, place in places.items() if place]
