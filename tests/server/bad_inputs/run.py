"""What RunWithSAEs refuses."""

from __future__ import annotations

from tests.server.bad_inputs.calls import (
    AT,
    CONDITION0,
    D_MODEL,
    D_SAE,
    D_VOCAB,
    EDIT0,
    IN,
    INF,
    INVALID,
    LOSS,
    NAN,
    NOT_FOUND,
    ONE,
    PRECONDITION,
    SPLICE1,
    Bad,
    Edit,
    F,
    FeatureRef,
    Input,
    Query,
    Selector,
    condition,
    direction,
    edit,
    feature_edit,
    interventions,
    run,
    splice,
    x,
)

from saekit.v1 import input_pb2, intervention_pb2
from saekit.v1 import sae_service_pb2 as pb

RUN = [
    Bad(
        "run_of_nothing",
        lambda s: s.sae.RunWithSAEs(pb.RunWithSAEsRequest(options=pb.RunOptions(returns=LOSS))),
        INVALID,
        "inputs",
    ),
    Bad("run_of_activations", run(Input(activations=x(2, D_MODEL))), INVALID, IN + "activations"),
    Bad("nothing_asked_for", run(returns=pb.RunReturns()), INVALID, "options.returns"),
    Bad("run_by_an_unknown_model", run(model="x"), INVALID, "options.model"),
    Bad(
        "windows_in_a_run",
        run(over_length=input_pb2.OVER_LENGTH_WINDOWS),
        INVALID,
        "options.over_length",
    ),
    Bad(
        "top_k_logits_without_logits",
        run(returns=pb.RunReturns(loss=True, top_k_logits=2)),
        INVALID,
        "options.returns.top_k_logits",
    ),
    Bad(
        "no_top_logits",
        run(returns=pb.RunReturns(logits=pb.LOGITS_ROWS_LAST, top_k_logits=0)),
        INVALID,
        "options.returns.top_k_logits",
    ),
    Bad(
        "top_logits_beyond_d_vocab",
        run(returns=pb.RunReturns(logits=pb.LOGITS_ROWS_LAST, top_k_logits=D_VOCAB + 1)),
        INVALID,
        "options.returns.top_k_logits",
    ),
    Bad(
        "activations_of_no_hook_point",
        run(returns=pb.RunReturns(activations=["blocks.9.hook_resid_pre"])),
        INVALID,
        "options.returns.activations[0]",
    ),
    Bad(
        "features_of_no_sae",
        run(returns=pb.RunReturns(features=[Query(sae="no")])),
        NOT_FOUND,
        "options.returns.features[0].sae",
    ),
    Bad("splice_of_no_sae", splice("no"), NOT_FOUND, AT + "splices[0].sae"),
    Bad("splice_twice", splice("jumprelu", "jumprelu", use_error_term=True), INVALID, SPLICE1[:-1]),
    Bad(
        "two_without_error_term",
        splice("jumprelu", "normed/layer_norm"),
        INVALID,
        SPLICE1 + "use_error_term",
    ),
    Bad(
        "splice_at_roles_without_a_chat",
        splice("topk", positions=Selector(roles=input_pb2.ChatRoles(roles=["user"]))),
        INVALID,
        AT + "splices[0].positions.roles",
    ),
    Bad(
        "kept_splice_at_roles_without_a_chat",
        splice(
            "topk",
            use_error_term=True,
            positions=Selector(roles=input_pb2.ChatRoles(roles=["user"])),
        ),
        INVALID,
        AT + "splices[0].positions.roles",
    ),
    Bad("edit_of_nothing", edit(add=ONE), INVALID, EDIT0 + "target"),
    Bad("edit_without_operation", edit(feature=F), INVALID, EDIT0 + "operation"),
    Bad(
        "edit_of_a_feature_out_of_range",
        edit(feature=FeatureRef(sae="topk", index=D_SAE), add=ONE),
        INVALID,
        EDIT0 + "feature.index",
    ),
    Bad(
        "project_a_feature",
        feature_edit(project=intervention_pb2.Project(coefficient=0)),
        INVALID,
        EDIT0 + "project",
    ),
    Bad(
        "add_nan", feature_edit(add=intervention_pb2.Add(amount=NAN)), INVALID, EDIT0 + "add.amount"
    ),
    Bad(
        "set_infinity",
        feature_edit(set=intervention_pb2.Set(value=INF)),
        INVALID,
        EDIT0 + "set.value",
    ),
    Bad(
        "scale_by_nan",
        feature_edit(scale=intervention_pb2.Scale(factor=NAN)),
        INVALID,
        EDIT0 + "scale.factor",
    ),
    Bad(
        "set_in_unit_norm",
        feature_edit(set=intervention_pb2.Set(value=1, unit=intervention_pb2.UNIT_UNIT_NORM)),
        INVALID,
        EDIT0 + "set.unit",
    ),
    Bad(
        "unknown_unit",
        feature_edit(add=intervention_pb2.Add(amount=1, unit=8)),
        INVALID,
        EDIT0 + "add.unit",
    ),
    Bad("clip_to_nothing", feature_edit(clip=intervention_pb2.Clip()), INVALID, EDIT0 + "clip.lo"),
    Bad(
        "clip_upside_down",
        feature_edit(clip=intervention_pb2.Clip(lo=2, hi=1)),
        INVALID,
        EDIT0 + "clip.lo",
    ),
    Bad(
        "clip_to_nan", feature_edit(clip=intervention_pb2.Clip(lo=NAN)), INVALID, EDIT0 + "clip.lo"
    ),
    Bad(
        "maxima_that_were_not_recorded",
        edit(
            feature=FeatureRef(sae="heads", index=1),
            add=intervention_pb2.Add(amount=1, unit=intervention_pb2.UNIT_MAX_ACTIVATION),
        ),
        PRECONDITION,
        EDIT0 + "add.unit",
    ),
    Bad("direction_without_source", direction(), INVALID, EDIT0 + "direction.source"),
    Bad(
        "direction_without_hook_point",
        direction(x(D_MODEL), ""),
        INVALID,
        EDIT0 + "direction.hook_name",
    ),
    Bad(
        "direction_at_no_hook_point",
        direction(x(D_MODEL), "blocks.9.hook_resid_pre"),
        INVALID,
        EDIT0 + "direction.hook_name",
    ),
    Bad("zero_direction", direction(x(D_MODEL, fill=0)), INVALID, EDIT0 + "direction.vector"),
    Bad("nan_direction", direction(x(D_MODEL, fill=NAN)), INVALID, EDIT0 + "direction.vector"),
    Bad(
        "direction_of_another_width", direction(x(D_MODEL + 1)), INVALID, EDIT0 + "direction.vector"
    ),
    Bad(
        "positions_of_a_feature_edit",
        feature_edit(add=ONE, positions=Selector(last_n=0)),
        INVALID,
        EDIT0 + "positions.last_n",
    ),
    Bad(
        "positions_of_a_direction_edit",
        direction(x(D_MODEL), positions=Selector(last_n=0)),
        INVALID,
        EDIT0 + "positions.last_n",
    ),
    Bad(
        "positions_of_an_edit_outside_the_input",
        feature_edit(
            add=ONE,
            positions=Selector(
                ranges=input_pb2.PositionRanges(ranges=[input_pb2.PositionRange(start=900)])
            ),
        ),
        INVALID,
        EDIT0 + "positions.ranges.ranges[0]",
    ),
    Bad(
        "positions_of_an_edit_under_a_condition",
        condition(
            apply_from_here=intervention_pb2.EditList(
                edits=[
                    Edit(feature=F, add=ONE, positions=Selector(region=Selector.REGION_GENERATED))
                ]
            )
        ),
        INVALID,
        CONDITION0 + "apply_from_here.edits[0].positions.region",
    ),
    Bad(
        "set_a_direction",
        direction(x(D_MODEL), set=intervention_pb2.Set(value=1), add=None),
        INVALID,
        EDIT0 + "set",
    ),
    Bad(
        "direction_in_maxima",
        direction(
            x(D_MODEL),
            add=intervention_pb2.Add(amount=1, unit=intervention_pb2.UNIT_MAX_ACTIVATION),
        ),
        INVALID,
        EDIT0 + "add.unit",
    ),
    Bad(
        "project_by_nan",
        direction(x(D_MODEL), project=intervention_pb2.Project(coefficient=NAN), add=None),
        INVALID,
        EDIT0 + "project.coefficient",
    ),
    Bad(
        "preserve_norm_of_nothing", interventions(preserve_norm=True), INVALID, AT + "preserve_norm"
    ),
    Bad(
        "stop_where_nothing_is_generated",
        condition(stop=intervention_pb2.Stop()),
        INVALID,
        CONDITION0 + "stop",
    ),
    Bad("condition_without_action", condition(), INVALID, CONDITION0 + "action"),
    Bad(
        "condition_without_edits",
        condition(apply_here=intervention_pb2.EditList()),
        INVALID,
        CONDITION0 + "apply_here.edits",
    ),
    Bad(
        "nan_threshold",
        condition(
            threshold=NAN, apply_here=intervention_pb2.EditList(edits=[Edit(feature=F, add=ONE)])
        ),
        INVALID,
        CONDITION0 + "threshold",
    ),
    Bad(
        "trigger_behind_its_edits",
        condition(
            apply_here=intervention_pb2.EditList(
                edits=[Edit(feature=FeatureRef(sae="topk", index=1), add=ONE)]
            )
        ),
        INVALID,
        CONDITION0 + "apply_here.edits[0]",
    ),
]
