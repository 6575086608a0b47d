"""What ends a stream as a whole."""

from __future__ import annotations

from tests.server.bad_inputs.calls import INVALID, LOSS, STREAM_OPTIONS, TEXT, Bad, stream

from saekit.v1 import sae_service_pb2 as pb

STREAMS = [
    Bad("stream_of_nothing", stream("EncodeStream"), INVALID, "options"),
    Bad(
        "stream_without_options",
        stream("EncodeStream", pb.EncodeStreamRequest(input=TEXT)),
        INVALID,
        "options",
    ),
    Bad(
        "stream_of_bad_options",
        stream("EncodeStream", pb.EncodeStreamRequest(options=pb.EncodeOptions())),
        INVALID,
        "options.saes",
    ),
    Bad(
        "stream_of_options_twice",
        stream("EncodeStream", *[pb.EncodeStreamRequest(options=STREAM_OPTIONS)] * 2),
        INVALID,
        "message",
    ),
    Bad(
        "decode_stream_without_options",
        stream("DecodeStream", pb.DecodeStreamRequest(item=pb.DecodeItem())),
        INVALID,
        "options",
    ),
    Bad(
        "decode_stream_of_a_bad_type",
        stream("DecodeStream", pb.DecodeStreamRequest(options=pb.DecodeOptions(dtype=4))),
        INVALID,
        "options.dtype",
    ),
    Bad(
        "run_stream_of_nothing",
        lambda s: list(
            s.sae.RunWithSAEsStream(
                pb.RunWithSAEsStreamRequest(options=pb.RunOptions(returns=LOSS))
            )
        ),
        INVALID,
        "inputs",
    ),
    Bad(
        "run_stream_that_returns_nothing",
        lambda s: list(s.sae.RunWithSAEsStream(pb.RunWithSAEsStreamRequest(inputs=[TEXT]))),
        INVALID,
        "options.returns",
    ),
]
