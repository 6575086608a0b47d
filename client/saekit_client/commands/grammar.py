"""The small language of --edit, --when and --watch.

edit      = target operation ["on" where]
target    = SAE ":" FEATURE                SAE is a sae_id or sae_id@revision
operation = "+" S [unit] | "-" S [unit]    add
          | "=" V ["max"]                  clamp
          | "*" M                          multiply
          | "ablate"                       set to 0
          | "clip" range                   limit the activation
          | "project" C                    rescale the component along the feature's direction
          | "cap" range                    limit the component along the feature's direction
unit      = "max"                          multiples of the feature's recorded maximum
          | "norm"                         residual norm
range     = [LO] ".." [HI]
where     = "all" | "prompt" | "generated" | "last" | "last:" N | range of positions
when      = target ">" T ("stop" | ("here" | "from-here") edit)
watch     = SAE ":" FEATURE {"," FEATURE}
"""

import re

from saekit_client.interventions import (
    Ablate,
    Add,
    ApplyFromHere,
    ApplyHere,
    Cap,
    Clip,
    Condition,
    Direction,
    Edit,
    FeatureRef,
    Operation,
    Project,
    Scale,
    Set,
    Stop,
    Unit,
)
from saekit_client.options import Watch
from saekit_client.positions import GENERATED, LAST_PROMPT, PROMPT, PositionSelector, between, last

_NUMBER = r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"
_TARGET = r"(?P<sae>[^\s:]+):(?P<feature>\d+)"
_EDIT = re.compile(rf"{_TARGET}\s*(?P<operation>.+?)(?:\s+on\s+(?P<where>\S+))?\s*\Z")
_WHEN = re.compile(
    rf"{_TARGET}\s*>\s*(?P<threshold>{_NUMBER})\s+(?P<action>stop|here|from-here)\b\s*(?P<edit>.*)\Z"
)
_WATCH = re.compile(r"(?P<sae>[^\s:]+):(?P<features>\d+(?:\s*,\s*\d+)*)\Z")
_OPERATION = re.compile(
    rf"(?P<add>(?P<sign>[+-])\s*(?P<amount>{_NUMBER})\s*(?P<unit>max|norm)?)\Z"
    rf"|(?P<set>=\s*(?P<value>{_NUMBER})\s*(?P<set_unit>max)?)\Z"
    rf"|(?P<scale>\*\s*(?P<factor>{_NUMBER}))\Z"
    r"|(?P<ablate>ablate)\Z"
    rf"|(?P<limit>clip|cap)\s+(?P<lo>{_NUMBER})?\s*\.\.\s*(?P<hi>{_NUMBER})?\Z"
    rf"|(?P<project>project)\s+(?P<coefficient>{_NUMBER})\Z"
)
_POSITIONS = re.compile(r"(?P<start>-?\d+)?\.\.(?P<end>-?\d+)?\Z")
_UNITS: dict[str | None, Unit] = {None: "raw", "max": "max_activation", "norm": "unit_norm"}


def parse_edit(text: str) -> Edit:
    """An edit, e.g. `demo/res2:1234 +8max on generated`.

    Raises:
        ValueError: it does not follow the grammar.
    """
    match = _EDIT.match(text.strip())
    if match is None:
        raise ValueError(f"{text!r}: expected SAE:FEATURE and an operation, like 'res2:123 +8max'")
    feature = FeatureRef(match["sae"], int(match["feature"]))
    operation = _operation(match["operation"], text)
    along = isinstance(operation, Project | Cap)
    return Edit(
        Direction(feature=feature) if along else feature,
        operation,
        None if match["where"] is None else _where(match["where"], text),
    )


def parse_when(text: str) -> Condition:
    """A condition, e.g. `res2:12 > 4 stop` or `res2:12 > 4 from-here res2:13 =0`.

    Raises:
        ValueError: it does not follow the grammar.
    """
    match = _WHEN.match(text.strip())
    if match is None or (match["action"] == "stop") != (match["edit"] == ""):
        raise ValueError(
            f"{text!r}: expected SAE:FEATURE > T and 'stop', 'here EDIT' or 'from-here EDIT'"
        )
    trigger = FeatureRef(match["sae"], int(match["feature"]))
    action: Stop | ApplyHere | ApplyFromHere = Stop()
    if match["action"] == "here":
        action = ApplyHere((parse_edit(match["edit"]),))
    elif match["action"] == "from-here":
        action = ApplyFromHere((parse_edit(match["edit"]),))
    return Condition(trigger, float(match["threshold"]), action)


def parse_watch(text: str) -> Watch:
    """Features to watch, e.g. `res2:12,34`.

    Raises:
        ValueError: it does not follow the grammar.
    """
    match = _WATCH.match(text.strip())
    if match is None:
        raise ValueError(f"{text!r}: expected SAE:FEATURE,FEATURE,...")
    return Watch(match["sae"], [int(f) for f in match["features"].split(",")])


def _operation(words: str, text: str) -> Operation:
    match = _OPERATION.match(words.strip())
    if match is None:
        raise ValueError(
            f"{text!r}: expected +S[max|norm], -S[max|norm], =V[max], *M, ablate, clip LO..HI, "
            f"project C or cap LO..HI, got {words!r}"
        )
    if match["add"]:
        sign = -1.0 if match["sign"] == "-" else 1.0
        return Add(sign * float(match["amount"]), _UNITS[match["unit"]])
    if match["set"]:
        return Set(float(match["value"]), _UNITS[match["set_unit"]])
    if match["scale"]:
        return Scale(float(match["factor"]))
    if match["ablate"]:
        return Ablate()
    if match["project"]:
        return Project(float(match["coefficient"]))
    lo, hi = (None if match[side] is None else float(match[side]) for side in ("lo", "hi"))
    if lo is None and hi is None:
        raise ValueError(f"{text!r}: expected a bound before or after '..'")
    return Clip(lo, hi) if match["limit"] == "clip" else Cap(lo, hi)


def _where(word: str, text: str) -> PositionSelector:
    named = {
        "all": PositionSelector(region="all"),
        "prompt": PROMPT,
        "generated": GENERATED,
        "last": LAST_PROMPT,
    }
    if word in named:
        return named[word]
    if word.startswith("last:") and word.removeprefix("last:").isdecimal():
        return last(int(word.removeprefix("last:")))
    match = _POSITIONS.match(word)
    if match is None:
        raise ValueError(
            f"{text!r}: expected all, prompt, generated, last, last:N or A..B after 'on', "
            f"got {word!r}"
        )
    start, end = match["start"], match["end"]
    return between(None if start is None else int(start), None if end is None else int(end))
