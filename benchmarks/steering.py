"""Rows 7, 8 and 9: steered streams against one stream, `generate` with hooks, and unsteered ones.

On the embedded model. Every request has an edit of its own: a feature, an amount. `generate` of
transformers gets the same bracket h + s·W_dec[f] from a forward hook, in its cheapest form.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch

from benchmarks.callers import Callers, callers
from benchmarks.harness import Bar, Options, Report, alternate, ratio
from benchmarks.serving import served
from benchmarks.setting import Setting, embedded
from saekit.v1 import input_pb2, intervention_pb2
from saekit.v1 import sae_service_pb2 as pb

STREAMS: Final = 16
TOKENS: Final = 128
PROMPT: Final = "One day a little girl went to the park with her dog."
AMOUNT: Final = 2.0
STEERED: Final = "blocks.2.hook_resid_pre"


def measure(options: Options) -> Iterator[Report]:
    """16 streams, 16 edits."""
    setting = embedded()
    steered = [steer_request(stream) for stream in range(STREAMS)]
    plain = [steer_request(stream, edited=False) for stream in range(STREAMS)]
    ids = torch.from_numpy(setting.model.tokenizer.encode_text(PROMPT, True).ids)[None]
    with served(*setting.flags) as address, callers(address, STREAMS) as clients:
        outcomes = alternate(
            {
                "16 streams": lambda: stream_all(clients, steered),
                "16 streams, unsteered": lambda: stream_all(clients, plain),
                "1 stream": lambda: stream_all(clients, steered[:1]),
                "generate, one after the other": lambda: _generate(setting, ids, 4),
                "generate of the bridge": lambda: _generate_bridge(setting, ids, 1),
            },
            runs=options.runs,
        )

    def against(name: str, least: float, of: str = "16 streams") -> Bar:
        return Bar(f"{of} ÷ {name}", ratio(outcomes, of, name), least=least)

    def report(row: str, question: str, *bars: Bar) -> Report:
        return Report(row=row, question=question, unit="tokens/s", outcomes=outcomes, bars=bars)

    yield report(
        "07",
        "16 steered streams, one, and `generate` with the same edit by a hook",
        against("1 stream", 4.5),
        against("generate, one after the other", 1.2, of="1 stream"),
    )
    yield report(
        "08",
        "16 steered streams and the same requests by `generate`, one after the other",
        against("generate, one after the other", 5.0),
        against("generate of the bridge", 8.0),
    )
    yield report("09", "16 streams, steered and not", against("16 streams, unsteered", 0.95))


def steer_request(stream: int, *, edited: bool = True, tokens: int = TOKENS) -> pb.SteerRequest:
    """A stream with an edit of its own, always of the same length."""
    edit = intervention_pb2.Edit(
        feature=intervention_pb2.FeatureRef(sae=STEERED, index=_feature(stream)),
        add=intervention_pb2.Add(amount=AMOUNT, unit=intervention_pb2.UNIT_RAW),
    )
    return pb.SteerRequest(
        input=input_pb2.Input(text=PROMPT),
        interventions=intervention_pb2.Interventions(edits=[edit] if edited else []),
        max_new_tokens=tokens,
        ignore_eos=True,
        prepend_bos=True,
        sampling=pb.Sampling(temperature=0),
    )


def stream_all(clients: Callers, requests: list[pb.SteerRequest]) -> float:
    """All streams at once to their ends; tokens that came."""

    def read(stub: Any, item: int) -> int:
        return sum(event.WhichOneof("event") == "token" for event in stub.Steer(requests[item]))

    return float(sum(clients.each(read, len(requests))))


def _feature(stream: int) -> int:
    return 7 * stream + 1


def _hook(setting: Setting, stream: int) -> Any:
    """Adds the bracket of an ADD, which does not depend on the activations."""
    sae = _sae(setting)
    change = AMOUNT * sae.W_dec[_feature(stream)].detach()

    def add(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return (args[0] + change, *args[1:]), kwargs

    return add


def _generate(setting: Setting, ids: torch.Tensor, count: int) -> float:
    hf: Any = setting.model.hf
    layer = hf.model.layers[_layer(setting)]
    for stream in range(count):
        handle = layer.register_forward_pre_hook(_hook(setting, stream), with_kwargs=True)
        try:
            hf.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=TOKENS,
                min_new_tokens=TOKENS,
                do_sample=False,
                pad_token_id=0,
            )
        finally:
            handle.remove()
    return float(count * TOKENS)


def _generate_bridge(setting: Setting, ids: torch.Tensor, count: int) -> float:
    bridge = setting.model.bridge
    sae = _sae(setting)
    for stream in range(count):
        change = AMOUNT * sae.W_dec[_feature(stream)].detach()
        with bridge.hooks(
            fwd_hooks=[(str(sae.cfg.hook_name), lambda h, hook, change=change: h + change)]  # noqa: ARG005
        ):
            bridge.generate(
                ids,
                max_new_tokens=TOKENS,
                do_sample=False,
                stop_at_eos=False,
                verbose=False,
            )
    return float(count * TOKENS)


def _layer(setting: Setting) -> int:
    return int(str(_sae(setting).cfg.hook_name).split(".")[1])


def _sae(setting: Setting) -> Any:
    return setting.saes[setting.sae_ids.index(STEERED)]
