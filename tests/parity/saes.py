"""Every kind of SAE, both ways: theirs loaded here, ours loaded there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from tests.parity.agreement import TOLERANCE, Agreement, compare
from tests.parity.cells import (
    DTYPES,
    GOLDEN,
    LARGE,
    NORMALIZATIONS,
    SCALAR,
    Cell,
    grid,
    trained_grid,
)
from tests.parity.exchange import Answers, activations, fill
from tests.parity.golden import Made, pack
from tests.parity.old_layouts import OLD_FOLDERS
from tests.parity.peer import Peer
from tests.parity.report import Section

from saekit_core.sae import SAE, SAEConfig, SAEError

SCRIPT: Final = "sae_lens_saes.py"
_RULE: Final = f"""\
A cell is one architecture under one normalisation in one dtype; for autoencoders it is the worst of
four, with and without `b_dec` at the input and with and without heads (`hook_z`). It shows the
largest of the relative errors of encode, decode and forward, which may be {TOLERANCE["float32"]:g}
in float32 and {TOLERANCE["float16"]:g} in 16 bits; `=` is equal bit for bit. The sets of active
features are the same but for ties, where rounding decides
([agreement.py](../tests/parity/agreement.py)). What sae-lens cannot do is marked `not there`, and
held to the formula in float64 instead."""


def run(peer: Peer, folder: Path) -> list[Section]:
    """Both directions, and what folding the decoder norms gives."""
    return [
        _theirs_here(peer, folder / "read"),
        _ours_there(peer, folder / "written"),
        _old(peer, folder / "old"),
        _folded(peer, folder / "read"),
    ]


def write_golden(peer: Peer, folder: Path) -> None:
    """Renew ``tests/core/sae/golden``: every kind, normalisation and dtype; options take turns."""
    cells = grid(GOLDEN, every_option=False) + trained_grid(GOLDEN, normalizations=("none",))
    errors = ask(peer, "save", [cell.to_json() for cell in cells], folder)
    errors |= ask_old(peer, folder)
    if errors:
        raise RuntimeError(f"sae-lens could not make {errors}")
    made = [Made(c.name, folder / "theirs" / c.name, c.weights, c.inputs) for c in cells]
    made += [Made(o.name, folder / "old" / o.name, o.tensors, o.inputs) for o in OLD_FOLDERS]
    pack(made)


def build(cell: Cell) -> SAE:
    """A random SAE of a cell, as saekit makes one."""
    sae = SAE.from_config(SAEConfig.from_dict(cell.cfg)).requires_grad_(False)
    fill(sae.named_parameters(), f"{cell.weights}/ours", sae.cfg.architecture)
    return sae


def ask(
    peer: Peer, action: str, cells: Sequence[Mapping[str, Any]], folder: Path
) -> dict[str, str]:
    """Let the peer do something for each cell; what it could not, and why."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cells.json").write_text(json.dumps(cells))
    peer.run(SCRIPT, action, folder)
    errors: dict[str, str] = json.loads((folder / "errors.json").read_text())
    return errors


def _theirs_here(peer: Peer, folder: Path) -> Section:
    cells = grid(LARGE) + trained_grid(LARGE)
    errors = ask(peer, "save", [cell.to_json() for cell in cells], folder)
    results = _Results("Saved by sae-lens, loaded here")
    for cell in cells:
        if cell.name in errors:
            results.refused(cell, errors[cell.name])
            continue
        where = folder / "theirs" / cell.name
        try:
            sae = SAE.load_from_disk(where)
            agreement = compare(sae, Answers.load(where.with_name(f"{where.name}.safetensors")))
        except (SAEError, AssertionError) as error:
            results.fail(cell, str(error))
            continue
        results.add(cell, agreement)
    return results.section(_RULE)


def _ours_there(peer: Peer, folder: Path) -> Section:
    cells = grid(LARGE)
    saes = {cell.name: build(cell) for cell in cells}
    for name, sae in saes.items():
        sae.save_model(folder / "ours" / name)
    errors = ask(peer, "answer", [cell.to_json() for cell in cells], folder)
    results = _Results("Saved here, loaded by sae-lens")
    for cell in cells:
        if cell.name in errors:
            results.refused(cell, errors[cell.name])
            continue
        where = folder / "ours_answers" / cell.name
        lost = _lost_keys(
            json.loads((folder / "ours" / cell.name / "cfg.json").read_text()),
            json.loads(where.with_name(f"{where.name}.json").read_text()),
        )
        if lost:
            results.fail(cell, f"sae-lens does not take over {', '.join(lost)}")
            continue
        theirs = Answers.load(where.with_name(f"{where.name}.safetensors"))
        results.add(cell, compare(saes[cell.name], theirs))
    return results.section("The same, the other way: what `save_model` writes here, read there.")


def ask_old(peer: Peer, folder: Path) -> dict[str, str]:
    """Write the folders of older versions, and let the peer answer for them."""
    for old in OLD_FOLDERS:
        old.write(folder / "old" / old.name)
    cells = [{"name": o.name, "inputs": o.inputs, "shape": o.shape} for o in OLD_FOLDERS]
    return ask(peer, "old", cells, folder)


def _old(peer: Peer, folder: Path) -> Section:
    errors = ask_old(peer, folder)
    rows, failures = [], []
    for old in OLD_FOLDERS:
        where = folder / "old" / old.name
        if old.name in errors:
            failures.append(f"{old.name}: sae-lens: {errors[old.name]:.200}")
            continue
        sae = SAE.load_from_disk(where)
        agreement = compare(sae, Answers.load(where.with_name(f"{where.name}.safetensors")))
        failures += [f"{old.name}: {problem}" for problem in agreement.problems]
        what = (sae.cfg.architecture, sae.cfg.dtype, sae.cfg.normalize_activations)
        rows.append([old.name, *what, show(agreement.worst), str(agreement.ties)])
    columns = ("folder", "architecture", "dtype", "normalisation", "error", "ties")
    text = "Flat configurations as SAELens 2 to 5 wrote them, read by both."
    return Section("Folders of older versions", text, columns, rows, failures)


def _folded(peer: Peer, folder: Path) -> Section:
    """`fold_W_dec_norm` on what the peer has saved into `folder`."""
    cells = [
        cell
        for cell in grid(LARGE)
        if (cell.dtype, cell.normalization, cell.options) == ("float32", "none", ())
    ]
    refused_there = ask(peer, "fold", [cell.to_json() for cell in cells], folder)
    rows, failures = [], []
    for cell in cells:
        sae = SAE.load_from_disk(folder / "theirs" / cell.name)
        here = "folds"
        try:
            sae.fold_W_dec_norm()
        except SAEError:
            here = "refuses"
        there = "refuses" if cell.name in refused_there else "folds"
        worst = 0.0
        if here == there == "folds":
            theirs = SAE.load_from_disk(folder / "folded" / cell.name).weights()
            worst = max(
                float((ours - theirs[name]).norm() / theirs[name].norm())
                for name, ours in sae.weights().items()
            )
        if here != there or worst > TOLERANCE["float32"]:
            failures.append(f"{cell.kind}: sae-lens {there}, saekit {here}; off by {worst:.0e}")
        rows.append([cell.kind, there, here, show(worst)])
    columns = ("architecture", "sae-lens", "saekit", "tensors off by")
    text = "Decoder norms folded into the encoder, or the refusal where features would change."
    return Section("`fold_W_dec_norm`", text, columns, rows, failures)


def _lost_keys(written: Mapping[str, Any], loaded: Mapping[str, Any]) -> list[str]:
    """Keys of our ``cfg.json`` that are another thing, or nothing, in their configuration."""
    metadata, theirs = written["metadata"], loaded["metadata"]
    lost = [key for key in written if key != "metadata" and loaded.get(key) != written[key]]
    return lost + [f"metadata.{key}" for key in metadata if theirs.get(key) != metadata[key]]


def show(error: float) -> str:
    """An error as the tables have it."""
    return "=" if error == 0 else f"{error:.0e}"


class _Results:
    """The cells of one direction, gathered into rows."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._agreements: dict[tuple[str, str, str], list[Agreement]] = {}
        self._notes: dict[tuple[str, str, str], str] = {}
        self._failures: list[str] = []

    def add(self, cell: Cell, agreement: Agreement) -> None:
        self._agreements.setdefault(_key(cell), []).append(agreement)
        if agreement.problems:
            self.fail(cell, "; ".join(agreement.problems))

    def fail(self, cell: Cell, why: str) -> None:
        self._notes[_key(cell)] = "FAILS"
        self._failures.append(f"{cell.name}: {why}")

    def refused(self, cell: Cell, why: str) -> None:
        """sae-lens cannot do it: then ours is held to its formula in float64 instead."""
        self._notes.setdefault(_key(cell), f"not there: {why:.60}")
        if cell.trained:
            return
        problems = compare(build(cell), _by_formula(cell)).problems
        if problems:
            self.fail(cell, f"against its formula: {'; '.join(problems)}")

    def section(self, text: str) -> Section:
        rows = []
        keys = [*self._agreements, *self._notes]
        kinds = list(dict.fromkeys(kind for kind, _, _ in keys))
        normalizations = (*NORMALIZATIONS, SCALAR)
        for kind in kinds:
            for dtype in DTYPES:
                row = [self._cell((kind, n, dtype)) for n in normalizations]
                rows.append([kind, dtype, *row, self._ties(kind, dtype)])
        columns = ("architecture", "dtype", *normalizations, "ties")
        return Section(self.title, text, columns, rows, self._failures)

    def _cell(self, key: tuple[str, str, str]) -> str:
        if key in self._notes:
            return self._notes[key]
        if key not in self._agreements:
            return "–"
        worst = max(agreement.worst for agreement in self._agreements[key])
        return show(worst)

    def _ties(self, kind: str, dtype: str) -> str:
        found = [
            agreement
            for (k, _, d), agreements in self._agreements.items()
            if (k, d) == (kind, dtype)
            for agreement in agreements
        ]
        ties = sum(agreement.ties for agreement in found)
        return f"{ties} of {sum(agreement.compared for agreement in found)}" if ties else "0"


def _key(cell: Cell) -> tuple[str, str, str]:
    return cell.kind, cell.normalization, cell.dtype


@torch.no_grad()
def _by_formula(cell: Cell) -> Answers:
    """What float64 says of a cell, in the cell's dtype; tests hold float64 to the formulas."""
    sae = build(cell).to(torch.float64)
    x = activations(cell.inputs, cell.shape, cell.dtype)
    acts = sae.encode(x)
    wide = (acts, sae.decode(acts), sae(x))
    return Answers(x, *(tensor.to(x.dtype) for tensor in wide))
