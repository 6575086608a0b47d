"""What Steer refuses."""

from __future__ import annotations

from tests.server.bad_inputs.calls import (
    CONTEXT,
    D_MODEL,
    D_SAE,
    INVALID,
    NAN,
    NOT_FOUND,
    ONE,
    Bad,
    Edit,
    F,
    Input,
    Interventions,
    Selector,
    Tokens,
    sampling,
    steer,
    unknown,
    x,
)

from saekit.v1 import input_pb2
from saekit.v1 import sae_service_pb2 as pb

STEER = [
    Bad("steer_nothing", steer(input=None), INVALID, "input"),
    Bad("steer_an_empty_input", steer(input=Input()), INVALID, "input.content"),
    Bad(
        "steer_activations",
        steer(input=Input(activations=x(2, D_MODEL))),
        INVALID,
        "input.activations",
    ),
    Bad(
        "steer_an_over_long_input",
        steer(input=Input(tokens=Tokens(ids=[7] * 90))),
        INVALID,
        "input.tokens",
    ),
    Bad("steer_an_unknown_model", steer(model="x"), INVALID, "model"),
    Bad("steer_windows", steer(over_length=input_pb2.OVER_LENGTH_WINDOWS), INVALID, "over_length"),
    Bad("no_choice", steer(n=0), INVALID, "n"),
    Bad("too_many_choices", steer(n=17), INVALID, "n"),
    Bad("more_rows_than_slots", steer(n=11, baseline=True), INVALID, "n"),
    Bad("no_new_tokens", steer(max_new_tokens=0), INVALID, "max_new_tokens"),
    Bad("more_new_tokens_than_fit", steer(max_new_tokens=CONTEXT), INVALID, "max_new_tokens"),
    Bad("empty_stop_string", steer(stop=[".", ""]), INVALID, "stop[1]"),
    Bad("too_many_stop_strings", steer(stop=["."] * 17), INVALID, "stop"),
    Bad("too_many_top_logprobs", steer(top_logprobs=21), INVALID, "top_logprobs"),
    Bad(
        "steer_at_roles_without_a_chat",
        steer(
            interventions=Interventions(
                edits=[
                    Edit(
                        feature=F,
                        add=ONE,
                        positions=Selector(roles=input_pb2.ChatRoles(roles=["user"])),
                    )
                ]
            )
        ),
        INVALID,
        "interventions.edits[0].positions.roles",
    ),
    Bad("watch_nothing", steer(watch=[pb.Watch(sae="jumprelu")]), INVALID, "watch[0].features"),
    Bad(
        "watch_out_of_range",
        steer(watch=[pb.Watch(sae="jumprelu", features=[1, D_SAE])]),
        INVALID,
        "watch[0].features[1]",
    ),
    Bad("watch_no_sae", steer(watch=[pb.Watch(sae="no", features=[1])]), NOT_FOUND, "watch[0].sae"),
    Bad("negative_temperature", sampling(temperature=-1), INVALID, "sampling.temperature"),
    Bad("nan_temperature", sampling(temperature=NAN), INVALID, "sampling.temperature"),
    Bad("top_k_zero", sampling(top_k=0), INVALID, "sampling.top_k"),
    Bad("top_p_zero", sampling(top_p=0), INVALID, "sampling.top_p"),
    Bad("top_p_above_one", sampling(top_p=1.5), INVALID, "sampling.top_p"),
    Bad("min_p_above_one", sampling(min_p=2), INVALID, "sampling.min_p"),
    Bad(
        "frequency_penalty_too_large",
        sampling(frequency_penalty=3),
        INVALID,
        "sampling.frequency_penalty",
    ),
    Bad(
        "nan_presence_penalty", sampling(presence_penalty=NAN), INVALID, "sampling.presence_penalty"
    ),
    Bad(
        "repetition_penalty_of_zero",
        sampling(repetition_penalty=0),
        INVALID,
        "sampling.repetition_penalty",
    ),
    Bad("unknown_field_of_sampling", steer(unknown(pb.Sampling())), INVALID, "sampling.1023"),
]
