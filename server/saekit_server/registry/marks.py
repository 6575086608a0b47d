"""What an operator says of an SAE beside where it comes from: pins, labels, watched features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from saekit_server.errors import precondition
from saekit_server.registry.loaded import Entry, SAEInfo


@dataclass(frozen=True)
class Marks:
    """The operator's words on one SAE."""

    pinned: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    watch_features: tuple[int, ...] = ()
    """Features whose firing is counted."""
    only_revision: str | None = None
    """The only revision that may have the name; whoever comes without marks is refused others."""


_MARKS: Final = ("pinned", "labels", "watch_features", "only_revision")


def marked(
    info: SAEInfo, revisions: Iterable[Entry], serving: Entry | None, pin: bool, marks: Marks | None
) -> SAEInfo:
    """`info` with its marks: those given, or else those that its name and revision have.

    Labels belong to a name. A pin and watched features belong to a revision: features of another
    one are other features.

    Args:
        info: of what is being loaded.
        revisions: all that are loaded under its name.
        serving: the current one of them.
        pin: pin it, whatever it was; only without `marks`.
        marks: what to set.

    Raises:
        DomainError: FAILED_PRECONDITION; a watched feature that the SAE does not have, or another
            revision than the manifest's.
    """
    if marks is not None:
        d_sae = info.cfg.d_sae
        for feature in marks.watch_features:
            if not 0 <= feature < d_sae:
                raise precondition(
                    f"{info.sae_id} has {d_sae} features, there is no {feature} to watch",
                    field="watch_features",
                )
        return replace(
            info,
            pinned=marks.pinned,
            labels=dict(marks.labels),
            watch_features=marks.watch_features,
            only_revision=marks.only_revision,
        )
    only = None if serving is None else serving.info.only_revision
    if only not in (None, info.revision):
        raise precondition(
            f"the manifest allows {info.sae_id} only revision {only}, this is {info.revision}"
        )
    same = [e.info for e in revisions if e.info.revision == info.revision]
    return replace(
        info,
        pinned=pin or any(other.pinned for other in same),
        labels=info.labels if serving is None else serving.info.labels,
        watch_features=same[0].watch_features if same else (),
        only_revision=only,
    )


def carried_over(marks: SAEInfo, onto: SAEInfo) -> SAEInfo:
    """`onto`, which serves already, with the marks of a load that found the same bytes; `onto`
    itself where they are the same."""
    changes = {name: getattr(marks, name) for name in _MARKS}
    if all(getattr(onto, name) == value for name, value in changes.items()):
        return onto
    return replace(onto, **changes)
