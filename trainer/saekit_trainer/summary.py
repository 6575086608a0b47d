"""What the terminal says of a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from saekit_trainer.display import duration

_SIDE_BY_SIDE: Final = 3


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
        table = Table(box=None, show_header=len(names) > 1, pad_edge=False, padding=(0, 2, 0, 1))
        table.add_column()
        for name in some:
            table.add_column(Text(name), header_style="bold", overflow="fold")
        for row in columns[0]:
            values = [column[row] for column in columns]
            if any(values):
                table.add_row(Text(row, style="bold"), *map(Text, values))
        console.print(table)
    places: dict[str, None] = {}
    for summary in summaries.values():
        places |= dict.fromkeys(_places(summary))
    for place in places:
        console.print(f" {place}", highlight=False, markup=False, soft_wrap=True)


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
        "written to": summary["folder"] or "",
        "published as": f"{summary.get('sae_id', '')} {summary.get('published', '')}".strip(),
    }


def _places(summary: Mapping[str, Any]) -> list[str]:
    """Where to look and what to type next."""
    lines = []
    if summary.get("serve"):
        lines.append(f"serve it: {summary['serve']}")
    if summary.get("report"):
        lines.append(f"read it:  {summary['report']}")
    if summary.get("uploaded"):
        lines.append(f"uploaded: {summary['uploaded']}")
    return lines
