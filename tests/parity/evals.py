"""The figures of SAEs on a model, and the tokens that a store gives, there and here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import datasets
from tests.parity.peer import Peer
from tests.parity.report import Section
from tests.trainer.eval_cases import (
    STORES,
    THEIR_NAMES,
    TOLERANCE,
    eval_saes,
    eval_texts,
    eval_tokens,
    store_options,
    write_cases,
)

from saekit_core.lm.boot import boot_model
from saekit_trainer import ActivationsStore, evaluate

SCRIPT: Final = "sae_lens_evals.py"
GOLDEN: Final = Path(__file__).parents[1] / "trainer" / "golden" / "sae_lens_evals.json"


def run(peer: Peer, folder: Path) -> list[Section]:
    """`evaluate` against `run_evals`, and `get_batch_tokens` on both sides."""
    theirs = _ask(peer, folder)
    model, saes = boot_model(folder / "model", device="cpu"), eval_saes()
    errors = {
        name: _errors(evaluate(model, sae, eval_tokens(0, 1)).to_dict(), theirs["figures"][name])
        for name, sae in saes.items()
    }
    rows, failures = [], []
    for figure, there in THEIR_NAMES.items():
        found = {name: errors[name][figure] for name in saes}
        rows.append([f"`{figure}`", f"`{there}`", *(f"{e:.0e}" for e in found.values())])
        failures += [
            f"{figure} of {name} is off by {error:.1e}"
            for name, error in found.items()
            if not error <= TOLERANCE[figure]
        ]
    text = (
        "`evaluate` against `run_evals` on the same tokens; relative differences, at most "
        f"{TOLERANCE['l0']:g} ({TOLERANCE['kl_score']:g} of the scores, which divide small "
        "differences)."
    )
    figures = Section("Evaluations", text, ("figure", "there", *saes), rows, failures)

    dataset = datasets.Dataset.from_dict({"text": eval_texts()})
    rows, failures = [], []
    for name, options in STORES.items():
        store = ActivationsStore.from_sae(
            model, saes["standard"], dataset, **store_options(**options)
        )
        same = store.get_batch_tokens().tolist() == theirs["store_tokens"][name]
        failures += [] if same else [f"{name}: other tokens"]
        rows.append([name, "equal" if same else "FAILS"])
    text = "`ActivationsStore.from_sae(...).get_batch_tokens()` on the same texts."
    return [figures, Section("Tokens of a store", text, ("store", "token ids"), rows, failures)]


def write_golden(peer: Peer, folder: Path) -> None:
    """Renew the golden file of `tests/trainer/test_sae_lens_figures.py`."""
    _ask(peer, folder)
    shutil.copyfile(folder / "figures.json", GOLDEN)


def _ask(peer: Peer, folder: Path) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    write_cases(folder)
    peer.run(SCRIPT, folder)
    answers: dict[str, Any] = json.loads((folder / "figures.json").read_text())
    return answers


def _errors(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, float]:
    """Relative differences, by our name of the figure."""
    return {
        here: abs(ours[here] - theirs[there]) / max(abs(theirs[there]), 1e-6 / TOLERANCE[here])
        for here, there in THEIR_NAMES.items()
    }
