"""`report.html`: one file that needs nothing else, with everything about a run in it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from tests.trainer.small_run import SMALL

from saekit_core.lm.model import LanguageModel
from saekit_core.sae.features_file import FeaturesFile, Snippet
from saekit_trainer import MultiSAETrainingRunner, SAETrainingRunner
from saekit_trainer.multi_config import MultiSAETrainingRunnerConfig
from saekit_trainer.report.features import chosen_features, feature_cards
from saekit_trainer.report.svg import Series, histogram, line_chart, short
from saekit_trainer.report.writer import ReportWriter

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """A page, whose tags are matched while it is read."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def headings(self) -> list[str]:
        return [attrs.get("id") or "" for tag, attrs in self.tags if tag == "h2"]


def refers_outside(page: Page, source: str) -> list[str]:
    """What a browser would fetch or run."""
    found = [
        f"{tag} {name}={value}"
        for tag, attrs in page.tags
        for name, value in attrs.items()
        if (
            name in ("src", "href", "srcset", "data", "xlink:href")
            and not str(value).startswith("#")
        )
        or name.startswith("on")
    ]
    found += [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "object", "embed")]
    return found + re.findall(r"url\([^)]*\)|@import[^;]*|https?://\S*", source)


@pytest.fixture(scope="module")
def finished(
    model: LanguageModel, text: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SAETrainingRunner, str]:
    out = tmp_path_factory.mktemp("reported") / "a & b <i>"
    cfg = replace(
        SMALL, dataset_path=text, output_path=str(out), eval_every_n_steps=2, architecture="gated"
    )
    runner = SAETrainingRunner(cfg, override_model=model)
    runner.run()
    assert runner.result is not None
    assert runner.result.report == out / "report.html"
    return runner, (out / "report.html").read_text(encoding="utf-8")


def test_it_is_well_formed_and_refers_to_nothing_outside(finished: tuple[Any, str]) -> None:
    page = Page(finished[1])
    assert refers_outside(page, finished[1]) == []
    assert "prefers-color-scheme: dark" in finished[1]


def test_it_has_curves_distributions_examples_figures_and_configuration(
    finished: tuple[Any, str],
) -> None:
    runner, source = finished
    page = Page(source)
    charts = [attrs["aria-label"] for tag, attrs in page.tags if tag == "svg"]
    terms = [f"{term} over tokens" for term in ("mse_loss", "l1_loss", "aux_loss")]
    assert charts == [
        "Explained variance over tokens",
        "L0 over tokens",
        "Loss over tokens",
        *terms,
        "Dead features over tokens",
        "CE loss score over tokens",
        "KL score over tokens",
        "Learning rate over tokens",
        "Tokens per second over tokens",
        "log10 of feature densities",
        "L0 of tokens",
        "maximum activations",
    ]
    result = runner.result
    for value in result.evaluation.to_dict().values():
        assert (f"{value:,.0f}" if isinstance(value, int) else f"{value:.4f}") in page.text
    for name in runner.cfg.field_names():
        assert name in page.text
    assert f"SAE.load_from_disk({str(result.folder)!r})" in page.text
    assert "saekit serve --model" not in page.text  # cfg names no model
    assert "saekit serve --sae-dir" in page.text
    # Evaluations after steps 2, 4, 6 and 8 are dots of the curves.
    assert sum(attrs.get("class") == "dot" for _, attrs in page.tags) == 4 * 4
    cards = [attrs for tag, attrs in page.tags if tag == "article"]
    assert len(cards) == min(24, len(result.features.examples))


def test_bars_count_every_token_and_every_feature(finished: tuple[Any, str]) -> None:
    runner, source = finished
    evaluation = runner.result.evaluation
    assert evaluation.active_per_token.double().mean() == pytest.approx(evaluation.l0)
    counts = {
        what: sum(int(n.replace(",", "")) for n in re.findall(rf": ([\d,]+) {what}<", source))
        for what in ("tokens", "features")
    }
    alive = int((runner.result.training_density > 0).sum())
    assert counts == {
        "tokens": evaluation.tokens,
        "features": alive + int((runner.result.features.max_activation > 0).sum()),
    }
    assert f"{96 - alive} never fired" in source


def test_several_saes_share_a_page(model: LanguageModel, text: str, tmp_path: Path) -> None:
    cfg = MultiSAETrainingRunnerConfig(
        saes={"a.b": {"d_sae": 48}, "c": {"d_sae": 64, "k": 1}},
        dataset_path=text,
        output_path=str(tmp_path),
        context_size=24,
        train_batch_size_tokens=256,
        training_tokens=1024,
        eval_contexts=4,
        feature_stats_tokens=96,
    )
    runner = MultiSAETrainingRunner(cfg, override_model=model)
    runner.run()
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(source)
    assert refers_outside(page, source) == []
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    assert links == [f"#{heading}" for heading in page.headings()] == ["#sae0", "#sae1"]
    for name, result in runner.results.items():
        assert str(tmp_path / name) in page.text
        assert f"{result.evaluation.explained_variance:.4f}" in page.text
    never = int((result.training_density == 0).sum())
    assert never > 0
    assert f"{never} never fired" in page.text


def test_a_run_may_do_without(run: Any, tmp_path: Path) -> None:
    runner, _ = run(output_path=str(tmp_path / "out"), html_report=False)
    assert runner.result.report is None
    assert not (tmp_path / "out/report.html").exists()


def test_text_of_tokens_stays_text() -> None:
    nasty = ("<script>", " a&b", "\n", '"x"', "plain")
    features = FeaturesFile(
        density=np.array([0.5], np.float32),
        max_activation=np.array([4.0], np.float32),
        labels={0: "<i>label"},
        examples={0: (Snippet(nasty, (4.0, 1.0, 0.5, -2.0, 0.0), 0),)},
    )
    source = feature_cards(features, [0])
    page = Page(source)
    assert page.text.endswith('<script> a&b↵"x"plain')
    assert "<i>label" in page.text
    marks = [attrs for tag, attrs in page.tags if tag == "mark"]
    assert [mark["style"] for mark in marks] == ["--a:0.85", "--a:0.21", "--a:0.11", "--a:0.42"]
    assert [mark.get("class") for mark in marks] == ["peak", None, None, "minus"]


def test_the_sample_of_features_is_even_over_densities() -> None:
    n = 1000
    density = np.linspace(0, 1, n).astype(np.float32)
    examples = {i: (Snippet(("x",), (1.0,), 0),) for i in range(1, n)}
    chosen = chosen_features(FeaturesFile(density=density, examples=examples), 5)
    assert chosen == [999, 749, 500, 251, 1]


def test_charts_are_whole_whatever_they_show() -> None:
    odd: list[list[Series]] = [
        [Series([5.0], [2.0])],
        [Series([1.0, 2.0], [0.0, 0.0]), Series([2.0], [1.0], dots=True)],
        [Series([1.0, 2.0], [-3.0, 1e9])],
        [Series([1e9, 2e9], [1e-7, 1e5])],
    ]
    charts = [
        line_chart(one, label="<&>", wide_range=wide) for one in odd for wide in (True, False)
    ]
    charts.append(histogram([0, 1], [0], label="x", what="y"))
    charts.append(histogram([-0.5, 0.5, 1.5], [3, 1_000_000], label="x", what="y"))
    for chart in charts:
        ElementTree.fromstring(chart)
        assert "nan" not in chart
        for number in re.findall(r' (?:cx|cy|x|y)="([^"]*)"', chart):
            assert -1 <= float(number) <= 361
    numbers = (0, 0.03125, 12, 1500, 3.2e6, 2e-6, -4e4)
    assert [short(x) for x in numbers] == ["0", "0.0312", "12", "1.5k", "3.2M", "2e-06", "-40k"]


def test_a_resumed_run_shows_its_whole_course(run: Any, tmp_path: Path) -> None:
    runner, _ = run(output_path=str(tmp_path / "out"), wandb_log_frequency=1, eval_every_n_steps=2)
    path = tmp_path / "out/report.html"
    again = ReportWriter(path, {"": runner.plan})
    again.began(5, 5 * 256)
    curves = again._history.saes[""]
    lines = [json.loads(x) for x in path.with_name("metrics.jsonl").read_text().splitlines()][:5]
    assert curves["l0"].ys == [line["l0"] for line in lines]
    assert curves["eval/l0"].xs == [2 * 256, 4 * 256]
