"""The steps of the demo."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from saekit_client.commands.archive import explained_variance
from saekit_client.commands.encode import feature_labels
from saekit_client.commands.output import number, table
from saekit_client.commands.rendering import (
    feature_name,
    heat_text,
    token_strengths,
    token_table,
    top_features,
)
from saekit_client.commands.steer import side_by_side
from saekit_client.demo.report import DemoError, Report
from saekit_client.demo.script import (
    FRESH,
    IN_THE_STORY,
    LEAST_EXPLAINED_VARIANCE,
    NEW_TOKENS,
    PROMPT,
    SEED,
    STORY,
    THEME,
    NamedFeature,
)
from saekit_client.demo.server import environment, saekit
from saekit_client.interventions import Splice, ablate, add
from saekit_client.options import InputOptions, RunReturns, SAEQuery, Sampling
from saekit_client.registry_results import WatchEvent
from saekit_client.results import EncodeResult, Floats
from saekit_client.sync.client import Client

_TOP = 3


@dataclass(frozen=True)
class Stage:
    """What the steps share."""

    client: Client
    report: Report

    def index_of(self, feature: NamedFeature) -> int:
        """The index of a feature, by its label.

        Raises:
            DemoError: no feature has that label.
        """
        found = self.client.get_features(feature.sae, search=feature.label).features
        exact = [f.index for f in found if f.label == feature.label]
        if not exact:
            raise DemoError(f"no feature of {feature.sae} is labelled {feature.label!r}")
        return exact[0]


def look_around(stage: Stage) -> None:
    """The model and its SAEs."""
    model, saes = stage.client.get_model(), stage.client.list_saes()
    made = table("SAE", "architecture", "features", "L0", "explained variance")
    for s in saes:
        made.add_row(
            s.sae_id, s.architecture, str(s.d_sae), number(s.l0, 1), number(s.explained_variance)
        )
    stage.report.console.print(
        f"{model.name}: {model.n_layers} layers, {model.d_model} wide, "
        f"{model.d_vocab} tokens, on {model.device}",
        made,
    )
    stage.report.check("the server is healthy", stage.client.health() == "serving")
    stage.report.check(f"{len(saes)} SAEs are loaded", len(saes) >= 3)


def encode_story(stage: Stage) -> EncodeResult:
    """Each token of a story with its strongest features."""
    query = SAEQuery(IN_THE_STORY.sae, return_state=True)
    result = stage.client.encode(STORY, query, options=InputOptions(token_text=True))
    tokens, encoding = result.tokens, result.encoding
    if tokens is None:
        raise DemoError("the encoding of a text has no tokens")
    labels = feature_labels(stage.client, encoding.pin, top_features(encoding, _TOP))
    out = stage.report.console
    out.print(heat_text(tokens, token_strengths(encoding, tokens)), "")
    out.print(token_table(encoding, tokens, labels, _TOP))
    active = np.diff(encoding.csr.indptr.astype(np.int64))
    step = stage.report.steps[-1]
    step.figures["l0"] = float(active[~tokens.special].mean())
    stage.report.check("all activations are finite", bool(np.isfinite(encoding.csr.data).all()))
    stage.report.check(
        f"every token has features, {step.figures['l0']:.1f} on average",
        bool((active[~tokens.special] > 0).all()),
    )
    stage.report.check(
        f"the feature {IN_THE_STORY.label!r} is active in the story",
        stage.index_of(IN_THE_STORY) in encoding.csr.indices,
    )
    return result


def decode_story(stage: Stage, encoded: EncodeResult) -> None:
    """Features back to activations, against the model's own."""
    encoding, tokens = encoded.encoding, encoded.tokens
    if tokens is None:
        raise DemoError("the encoding of a text has no tokens")
    hook = stage.client.get_sae(encoding.pin).info.hook_name
    run = stage.client.run_with_saes(tokens.ids, returns=RunReturns(activations=[hook]))
    original: Floats = run.activations[hook]
    decoded = stage.client.decode(encoding).activations
    plain = ~tokens.special
    variance = explained_variance(original[plain], decoded[plain])
    stage.report.steps[-1].figures["explained_variance"] = variance
    stage.report.console.print(
        f"{encoding.csr.nnz:,} feature activations → activations {decoded.shape} at {hook}"
    )
    stage.report.check(
        f"explained variance {variance:.3f} (at least {LEAST_EXPLAINED_VARIANCE})",
        LEAST_EXPLAINED_VARIANCE < variance <= 1.0,
    )


def run_spliced(stage: Stage) -> None:
    """The loss of the story, clean and with the SAE in the way."""
    client, feature = stage.client, stage.index_of(IN_THE_STORY)
    compared = client.run_with_saes(
        STORY, splices=[IN_THE_STORY.sae], returns=RunReturns(loss=True, compare=True)
    )
    with_error = client.run_with_saes(
        STORY, splices=[Splice(IN_THE_STORY.sae, use_error_term=True)]
    )
    ablated = client.run_with_saes(
        STORY,
        splices=[Splice(IN_THE_STORY.sae, use_error_term=True)],
        edits=[ablate(IN_THE_STORY.sae, feature)],
    )
    comparison = compared.comparison
    if comparison is None:
        raise DemoError("the run was not compared")
    losses = {
        "clean": comparison.clean_loss,
        "spliced": compared.loss,
        "spliced, with error term": with_error.loss,
        f"… and {feature_name(feature, {feature: IN_THE_STORY.label})} ablated": ablated.loss,
        "hook point zero-ablated": comparison.ablated_loss,
    }
    clean, spliced, error_term, edited, zero = (float(v or np.nan) for v in losses.values())
    made = table("run", "CE loss", right=("CE loss",))
    for name, loss in losses.items():
        made.add_row(name, number(loss, 4))
    stage.report.console.print(made)
    stage.report.steps[-1].figures |= {"losses": losses, **asdict(comparison)}
    stage.report.check(
        f"spliced lies between clean and ablated: CE loss score {number(comparison.ce_loss_score)}",
        clean - 0.05 < spliced < zero,
    )
    stage.report.check("with its error term nothing changes", abs(error_term - clean) < 1e-3)
    stage.report.check(
        f"ablating one feature changes the loss by {edited - error_term:+.5f}",
        bool(np.isfinite(edited)) and edited != error_term,
    )


def steer_story(stage: Stage) -> None:
    """A continuation, and the same one with a feature turned up."""
    index = stage.index_of(THEME.feature)
    edit = add(THEME.feature.sae, index, THEME.strength, unit="max_activation")
    stage.report.console.print(
        f"{THEME.feature.sae} #{index} {THEME.feature.label!r} + {THEME.strength} × its maximum"
    )
    with stage.client.steer(
        PROMPT,
        edits=[edit],
        sampling=Sampling(temperature=0.8, top_p=0.95, seed=SEED),
        max_new_tokens=NEW_TOKENS,
        baseline=True,
    ) as events:
        texts = side_by_side(PROMPT, events, stage.report.console)
    stage.report.console.print()
    steered, plain = texts.get((0, False), ""), texts.get((0, True), "")
    stage.report.steps[-1].figures |= {"steered": steered, "baseline": plain}
    stage.report.check("steered and baseline differ", bool(steered) and steered != plain)
    mentions = [text.lower().count(THEME.word) for text in (steered, plain)]
    stage.report.check(
        f"the steered text says {THEME.word!r} {mentions[0]} times, the baseline {mentions[1]}",
        mentions[0] > mentions[1],
    )


@contextmanager
def watching(client: Client, timeout: float) -> Iterator[Iterator[WatchEvent]]:
    """Changes of the registry from here on, for so many seconds."""
    events = client.watch_saes(FRESH, timeout=timeout)
    try:
        # What comes before "synced" is not a change.
        while next(events).kind != "synced":
            pass
        yield events
    finally:
        events.close()  # type: ignore[attr-defined]


def train_fresh(stage: Stage, folder: Path, seconds: float) -> None:
    """An SAE from nothing, in a process of its own, published into the watched folder."""
    words = ["train", "--publish", str(folder), "--sae-id", FRESH, "--max-seconds", str(seconds)]
    stage.report.console.print(f"[dim]$ saekit {' '.join(words)}[/dim]", highlight=False)
    to_stderr = sys.stderr if stage.report.console.stderr else None
    trained = subprocess.run(saekit(*words), stdout=to_stderr, check=False, env=environment())
    stage.report.check("the training ended well", trained.returncode == 0)
    if trained.returncode:
        raise DemoError(f"saekit train ended with exit code {trained.returncode}")


def use_fresh(stage: Stage, events: Iterator[WatchEvent]) -> None:
    """The server has noticed: encode with the SAE that was trained a moment ago."""
    with stage.report.console.status("waiting for the server to load it"):
        event = next(events)
    if event.kind != "loaded" or event.sae is None:
        raise DemoError(f"expected the server to load {FRESH}, but: {event.kind} {event.error}")
    fresh = event.sae
    stage.report.check(f"the server loaded {fresh.sae_id}@{fresh.revision}", fresh.sae_id == FRESH)
    result = stage.client.encode(STORY, FRESH, options=InputOptions(token_text=True))
    if result.tokens is None:
        raise DemoError("the encoding of a text has no tokens")
    strengths = token_strengths(result.encoding, result.tokens)
    stage.report.console.print(heat_text(result.tokens, strengths))
    stage.report.check(
        "it answers with its revision", result.encoding.sae_revision == fresh.revision
    )
    stage.report.check(
        f"{result.features.nnz} finite feature activations",
        result.features.nnz > 0 and bool(np.isfinite(result.features.data).all()),
    )
