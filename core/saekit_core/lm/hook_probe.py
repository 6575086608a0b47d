"""Finding a model's hook points by running it once.

The bridge says which hook points exist, what their activations look like and in which order they
fire. Whether a hook point is the input or output of a plain module is not taken on trust: the
plain model runs on the same tokens and the values must agree. What does not agree lies inside a
module and stays with the bridge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .bridging import SharedBridge, bridge_root
from .hook_points import HookPoint, HookTable, ModuleSite
from .taps import first_input, first_output

_ROWS = 2
_TOLERANCE = {torch.float32: 1e-3}
_TOLERANCE_HALF = 0.1
"""Relative Frobenius distance. A wrong site is off by its own size; eager and fused attention
differ by rounding, which in half precision adds up over the layers."""


def probe_hook_points(hf: PreTrainedModel, shared: SharedBridge) -> HookTable:
    """Run the bridge and the plain model on the same few tokens and match what they show."""
    tokens = _probe_tokens(hf)
    seen = _run_bridge(shared.bridge, tokens)
    table = _table(shared.bridge, tokens, seen)
    sites = _match_sites(hf, shared, table.points, seen, tokens)
    return HookTable(table.points, table.aliases, sites, table.silent)


def probe_bridge(bridge: Any) -> HookTable:
    """The hook points of a bridge by itself, none of which has a site in a plain model."""
    tokens = _probe_tokens(bridge.original_model)
    return _table(bridge, tokens, _run_bridge(bridge, tokens))


def _table(bridge: Any, tokens: Tensor, seen: Mapping[str, Tensor]) -> HookTable:
    """The hook points that have fired, under all their names."""
    hook_dict: Mapping[str, Any] = bridge.hook_dict
    points: dict[str, HookPoint] = {}
    for depth, (canonical, h) in enumerate(seen.items()):
        per_position = h.shape[:2] == tokens.shape and h.is_floating_point() and h.ndim > 2
        shape = tuple(h.shape[2:]) if per_position else ()
        points[canonical] = HookPoint(name=canonical, canonical=canonical, depth=depth, shape=shape)
    aliases = {name: target.name for name, target in hook_dict.items() if target.name in points}
    silent = [name for name, target in hook_dict.items() if target.name not in points]
    return HookTable(points, aliases, {}, silent)


def _probe_tokens(hf: PreTrainedModel) -> Tensor:
    """[rows, positions] token ids, with a length that no head count can be mistaken for."""
    text_config = hf.config.get_text_config(decoder=True)
    heads = {
        getattr(text_config, "num_attention_heads", 0),
        getattr(text_config, "num_key_value_heads", 0),
    }
    n_pos = next(n for n in (5, 6, 7) if n not in heads)
    ids = torch.arange(_ROWS * n_pos) * 37 + 11
    return (ids % int(text_config.vocab_size)).view(_ROWS, n_pos).to(hf.device)


def _run_bridge(bridge: Any, tokens: Tensor) -> dict[str, Tensor]:
    """canonical name -> activations, in the order in which they fired."""
    seen: dict[str, Tensor] = {}
    targets = {target.name: target for target in bridge.hook_dict.values()}
    handles = []
    try:
        for target in targets.values():

            def record(h: Any, hook: Any) -> None:
                if isinstance(h, Tensor):
                    seen.setdefault(hook.name, h.detach().clone())

            handles.append((target, target.add_hook(record)))
        with torch.no_grad():
            inputs: dict[str, Any] = {"use_cache": False}
            bridge_root(bridge, tokens, inputs)(input_ids=tokens, **inputs)
    finally:
        for target, handle in handles:
            handle.hook.remove()
            target.fwd_hooks.remove(handle)
    return seen


def _match_sites(
    hf: PreTrainedModel,
    shared: SharedBridge,
    points: Mapping[str, HookPoint],
    seen: Mapping[str, Tensor],
    tokens: Tensor,
) -> dict[str, ModuleSite]:
    candidates = {
        canonical: site
        for canonical, point in points.items()
        if point.shape and (site := _candidate(shared, canonical)) is not None
    }
    paths = {site.path for site in candidates.values()}
    inputs: dict[str, list[Tensor]] = {}
    outputs: dict[str, list[Tensor]] = {}
    with _recording(hf, paths, inputs, outputs), torch.no_grad():
        hf(input_ids=tokens, use_cache=False)

    sites: dict[str, ModuleSite] = {}
    for canonical, site in candidates.items():
        shown = (inputs if site.side == "in" else outputs).get(site.path, [])
        if len(shown) != 1:  # never called, or shared between places: only the bridge can tell
            continue
        h = shown[0] if site.columns is None else shown[0][..., site.columns]
        if _same(h, seen[canonical]):
            sites[canonical] = site
    return _rejoined(shared, sites)


def _rejoined(shared: SharedBridge, sites: dict[str, ModuleSite]) -> dict[str, ModuleSite]:
    """Sites at which an edit must reach the residual stream too, told so.

    Those whose block's output is not a site are left to the bridge, which joins them itself.
    """
    rejoined = dict(sites)
    for name, point in shared.bridge.hook_dict.items():
        block, _, hook = name.rpartition(".")
        if hook != "hook_resid_mid" or point.name not in sites:
            continue
        end = sites.get(f"{block}.hook_out")
        if end is None:
            del rejoined[point.name]
        else:
            rejoined[point.name] = replace(sites[point.name], rejoins=end.path)
    return rejoined


def _candidate(shared: SharedBridge, canonical: str) -> ModuleSite | None:
    owner_path, _, hook = canonical.rpartition(".")
    if hook not in ("hook_in", "hook_out"):
        return None
    owner = _component(shared.bridge, owner_path)
    path = shared.paths.get(getattr(owner, "original_component", None))  # type: ignore[arg-type]
    if path is not None:
        return ModuleSite(path=path, side="in" if hook == "hook_in" else "out")
    return _fused_qkv_candidate(shared, owner_path) if hook == "hook_out" else None


def _fused_qkv_candidate(shared: SharedBridge, owner_path: str) -> ModuleSite | None:
    """Query, key or value as a third of the fused projection's output."""
    attention_path, _, part = owner_path.rpartition(".")
    if part not in ("q", "k", "v"):
        return None
    attention = _component(shared.bridge, attention_path)
    fused = getattr(getattr(attention, "qkv", None), "original_component", None)
    path = shared.paths.get(fused)  # type: ignore[arg-type]
    third = getattr(getattr(attention, part), "weight", None)
    if path is None or third is None:
        return None
    width = min(third.shape)
    start = "qkv".index(part) * width
    return ModuleSite(path=path, side="out", columns=slice(start, start + width))


def _component(root: Any, path: str) -> Any:
    for part in path.split(".") if path else ():
        root = root[int(part)] if part.isdigit() else getattr(root, part, None)
    return root


@contextmanager
def _recording(
    hf: nn.Module,
    paths: set[str],
    inputs: dict[str, list[Tensor]],
    outputs: dict[str, list[Tensor]],
) -> Iterator[None]:
    handles = []

    def record(path: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            inputs.setdefault(path, []).append(first_input(args, kwargs)[1].clone())
            outputs.setdefault(path, []).append(first_output(output).clone())

        return hook

    try:
        for path in paths:
            module = hf.get_submodule(path)
            handles.append(module.register_forward_hook(record(path), with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _same(plain: Tensor, bridged: Tensor) -> bool:
    if plain.numel() != bridged.numel() or plain.shape[:2] != bridged.shape[:2]:
        return False
    a, b = plain.float().flatten(), bridged.float().flatten()
    tolerance = _TOLERANCE.get(plain.dtype, _TOLERANCE_HALF)
    return bool((a - b).norm() <= tolerance * b.norm())
