"""Attaching taps to a model for one forward pass, and stopping it when the last has fired."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .errors import LMError
from .hook_points import HookPoint, ModuleSite, Tap


class StopForward(Exception):  # noqa: N818 -- a signal, not an error
    """Raised inside a forward pass when nothing after this point is wanted."""


class RemovableHook(Protocol):
    """What both kinds of hooks give back."""

    def remove(self) -> None: ...


class _Countdown:
    """Raises StopForward when the last of `n` taps has fired, if it is to stop at all."""

    def __init__(self, n: int, stop: bool) -> None:
        self._left = n
        self._stop = stop

    def tick(self) -> None:
        self._left -= 1
        if self._stop and self._left == 0:
            raise StopForward


def apply_tap(tap: Tap, h: Tensor, point: HookPoint) -> Tensor | None:
    """The tap's replacement for `h`, in h's dtype and on its device; None if it only read.

    Raises:
        ValueError: if the replacement has another shape than `h`.
    """
    new = tap(h)
    if new is None or new is h:
        return None
    if new.shape != h.shape:
        raise ValueError(
            f"the tap at {point.name} returned shape {tuple(new.shape)}; "
            f"the activations there are {tuple(h.shape)}"
        )
    return new.to(device=h.device, dtype=h.dtype)


@contextmanager
def tapped_modules(
    model: nn.Module,
    sites: Mapping[str, ModuleSite],
    taps: Mapping[HookPoint, Tap],
    *,
    stop_after_last: bool,
) -> Iterator[None]:
    """Taps on the modules of a plain model. Hooks that others have set stay as they are."""
    countdown = _Countdown(len(taps), stop_after_last)
    handles: list[RemovableHook] = []
    try:
        for point, tap in sorted(taps.items(), key=lambda item: item[0].depth):
            site = sites[point.canonical]
            module = model.get_submodule(site.path)
            edit = _site_editor(site, point, tap)
            if site.rejoins is not None:
                edit, join = _rejoining(edit)
                # Sorted by depth, it runs before a tap that looks at the block's output.
                handles.append(model.get_submodule(site.rejoins).register_forward_hook(join))
            if site.side == "in":
                hook = _input_hook(edit, countdown)
                handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
            else:
                handles.append(module.register_forward_hook(_output_hook(edit, countdown)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def tapped_bridge(
    hook_dict: Mapping[str, Any], taps: Mapping[HookPoint, Tap], *, stop_after_last: bool
) -> Iterator[None]:
    """Taps on the hook points of a TransformerBridge (`hook_dict` is the bridge's).

    Raises:
        LMError: when the bridge cannot put a replacement into effect (attention patterns of
            architectures whose attention it does not compute itself).
    """
    countdown = _Countdown(len(taps), stop_after_last)
    handles: list[tuple[Any, Any]] = []
    try:
        for point, tap in taps.items():
            target = hook_dict[point.canonical]
            handles.append((target, target.add_hook(_bridge_hook(point, tap, countdown))))
        with warnings.catch_warnings():
            # Of an edit that it drops the bridge only warns.
            warnings.filterwarnings("error", message="A hook on .* returned a modified tensor")
            warnings.filterwarnings("ignore", message="A forward hook edited hook_scale")
            yield
    except UserWarning as warning:
        names = ", ".join(point.name for point in taps)
        raise LMError(f"activations can be read but not replaced at one of {names}") from warning
    finally:
        for target, handle in handles:
            handle.hook.remove()
            target.fwd_hooks.remove(handle)


Edit = Callable[[Tensor], Tensor | None]


def _site_editor(site: ModuleSite, point: HookPoint, tap: Tap) -> Edit:
    """The tap as an edit of the module's own tensor, which may be wider and not split in heads."""

    def edit(whole: Tensor) -> Tensor | None:
        part = whole if site.columns is None else whole[..., site.columns]
        h = part.reshape(*part.shape[:2], *point.shape) if len(point.shape) > 1 else part
        new = apply_tap(tap, h, point)
        if new is None:
            return None
        new = new.reshape(part.shape)
        if site.columns is None:
            return new
        whole = whole.clone()
        whole[..., site.columns] = new
        return whole

    return edit


def _rejoining(edit: Edit) -> tuple[Edit, Callable[..., Any]]:
    """An edit inside a block, and a hook on the block that adds to its output what was changed."""
    change: Tensor | None = None

    def noting(h: Tensor) -> Tensor | None:
        nonlocal change
        new = edit(h)
        change = None if new is None else widened(new) - h
        return new

    def join(_: nn.Module, __: Any, output: Any) -> Any:
        return None if change is None else rejoined(output, change)

    return noting, join


def rejoined(output: Any, change: Tensor) -> Any:
    """A block's output with what was changed inside of it, and went on past its inside, added."""
    h = first_output(output)
    joined = (widened(h) + change.to(h.device)).to(h.dtype)
    return (joined, *output[1:]) if isinstance(output, tuple) else joined


def widened(h: Tensor) -> Tensor:
    """Activations in float32 at least, so that a small change is not lost in a sum."""
    return h.to(torch.promote_types(h.dtype, torch.float32))


def _input_hook(edit: Edit, countdown: _Countdown) -> Callable[..., Any]:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        key, h = first_input(args, kwargs)
        new = edit(h)
        countdown.tick()
        if new is None:
            return None
        if isinstance(key, int):
            return (*args[:key], new, *args[key + 1 :]), kwargs
        return args, {**kwargs, key: new}

    return hook


def _output_hook(edit: Edit, countdown: _Countdown) -> Callable[..., Any]:
    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        new = edit(first_output(output))
        countdown.tick()
        if new is None:
            return None
        return (new, *output[1:]) if isinstance(output, tuple) else new

    return hook


def _bridge_hook(point: HookPoint, tap: Tap, countdown: _Countdown) -> Callable[..., Any]:
    def hook(h: Tensor, hook: object) -> Tensor | None:  # noqa: ARG001 -- the bridge names it
        new = apply_tap(tap, h, point)
        countdown.tick()
        return new

    return hook


def first_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[int | str, Tensor]:
    """The activations among a module's inputs, and where they are."""
    for i, value in enumerate(args):
        if isinstance(value, Tensor):
            return i, value
    for key, value in kwargs.items():
        if isinstance(value, Tensor):
            return key, value
    raise TypeError("the module was called without a tensor")


def first_output(output: Any) -> Tensor:
    """The activations among a module's outputs."""
    value = output[0] if isinstance(output, tuple) else output
    if not isinstance(value, Tensor):
        raise TypeError(f"the module returned {type(output).__name__}, expected a tensor")
    return value
