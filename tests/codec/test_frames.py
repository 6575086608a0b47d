"""A result of any size crosses in frames and comes out as it was."""

import numpy as np
import pytest

from saekit.codec import CodecError, FrameJoiner, numpy_to_tensor, split_message
from saekit.v1 import sae_service_pb2 as pb


def result(rows: int) -> pb.EncodeResult:
    dense = np.random.default_rng(rows).normal(size=(rows, 100)).astype(np.float32)
    return pb.EncodeResult(
        id="a",
        encodings=[
            pb.SAEEncoding(sae_id="one", dense=numpy_to_tensor(dense)),
            pb.SAEEncoding(sae_id="two", dense=numpy_to_tensor(-dense)),
        ],
    )


@pytest.mark.parametrize("rows", [0, 1, 50, 5_000])
def test_split_and_joined_message_is_the_same(rows: int) -> None:
    header, parts = split_message(result(rows), limit=1 << 16)
    assert header.ByteSize() <= 1 << 16
    assert all(len(part.data) <= 1 << 16 for part in parts)
    joiner = FrameJoiner(header)
    for part in parts:
        joiner.add(part)
    assert joiner.join() == result(rows)


def test_small_message_has_no_parts() -> None:
    assert split_message(result(2))[1] == []


@pytest.mark.parametrize("path", ["id", "nothing", "encodings[9].dense.data", "encodings.x", ""])
def test_part_of_no_bytes_field_is_refused(path: str) -> None:
    joiner = FrameJoiner(result(1))
    joiner.add(pb.Part(field=path, data=b"x"))
    with pytest.raises(CodecError):
        joiner.join()
