"""The benchmarks' own arithmetic: turns, ratios, bars, and the table that is made of results."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
from benchmarks import harness, table
from benchmarks.__main__ import DEFAULT, QUESTIONS, main
from benchmarks.harness import Bar, Outcome, Report, alternate, percentile, ratio
from benchmarks.setting import texts


def test_contenders_take_turns_and_the_warm_up_does_not_count() -> None:
    order: list[str] = []

    def contender(name: str) -> float:
        order.append(name)
        return 10.0

    outcomes = alternate(
        {"a": lambda: contender("a"), "b": lambda: contender("b")}, runs=3, warm_up=1
    )
    assert order == ["a", "b"] * 4
    assert [len(outcome.runs) for outcome in outcomes.values()] == [3, 3]


@pytest.mark.parametrize(
    "arguments", [["peer"], ["trainer", "--check"], ["overload", "trainer_quality", "--check"]]
)
def test_what_has_nothing_to_compare_with_is_refused(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert "--peer has to name" in capsys.readouterr().err


def test_a_ratio_is_of_the_same_turns() -> None:
    # The machine was half as fast in the second turn, for both.
    outcomes = {"a": Outcome.of([8.0, 4.0, 8.0]), "b": Outcome.of([4.0, 2.0, 4.0])}
    assert ratio(outcomes, "a", "b") == 2


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(n) for n in range(1, 101)]
    assert percentile(values, 0.99) == 99
    assert percentile([3.0], 0.5) == 3
    assert math.isnan(percentile([], 0.5))


@pytest.mark.parametrize(
    ("bar", "holds"),
    [
        (Bar("x", 0.9, least=0.9), True),
        (Bar("x", 0.89, least=0.9), False),
        (Bar("x", 1.2, most=1.2), True),
        (Bar("x", 1.21, most=1.2), False),
        (Bar("x", math.nan, least=0.9), False),
        (Bar("x", math.nan, most=0.9), False),
    ],
)
def test_a_bar_holds_from_its_figure_on_and_never_for_no_figure(bar: Bar, *, holds: bool) -> None:
    assert bar.holds is holds


def test_the_table_is_made_of_the_results_that_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    monkeypatch.setattr(table, "RESULTS", tmp_path)
    document = tmp_path / "performance.md"
    document.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    monkeypatch.setattr(table, "DOCUMENT", document)
    report = Report(
        row="07",
        question="how fast",
        unit="tokens/s",
        outcomes={"ours": Outcome.of([1234.0])},
        bars=(Bar("ours ÷ theirs", 1.5, least=1.2), Bar("memory", 2.0, most=1.0)),
    )
    path = harness.save(report)
    assert json.loads(path.read_text())["bars"][1]["holds"] is False
    table.write_table()
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    first, second = (line for line in text.splitlines() if "ours" in line or "memory" in line)
    assert first.startswith(
        "| 7 | how fast | ours: 1,234 tokens/s | ours ÷ theirs: **1.5** | ≥ 1.2"
    )
    assert "✓" in first
    assert "✗" in second


def test_lengths_of_the_texts_are_as_asked() -> None:
    lengths = sorted(len(text.split()) + 1 for text in texts(2000, mean=147, p99=800))
    assert sum(lengths) / len(lengths) == pytest.approx(147, rel=0.1)
    assert lengths[int(0.99 * len(lengths))] == pytest.approx(800, rel=0.25)


def test_every_question_has_a_module() -> None:
    folder = Path(harness.__file__).parent
    assert all((folder / f"{name}.py").exists() for name in QUESTIONS)
    assert set(DEFAULT) <= QUESTIONS.keys()
