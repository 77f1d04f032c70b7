from collections.abc import Sequence

from typing_extensions import Buffer

H264: int
H265: int

class PacketTemplate:
    codec: int
    payload_type: int
    packet_bytes_max: int
    frame_count: int
    packet_count: int
    frame_bytes_max: int
    total_bytes: int
    def __init__(
        self,
        codec: int,
        payload_type: int,
        access_units: Sequence[Sequence[bytes]],
        *,
        packet_bytes_max: int = 1440,
        aggregate: bool = True,
    ) -> None: ...
    def __len__(self) -> int: ...
    def frame_bytes(self, frame: int) -> int: ...
    def frame_packets(self, frame: int) -> int: ...
    def write(
        self,
        frame: int,
        out: Buffer,
        offset: int,
        *,
        channel: int,
        sequence: int,
        timestamp: int,
        ssrc: int,
    ) -> int: ...
    def packets(
        self, frame: int, *, sequence: int, timestamp: int, ssrc: int
    ) -> list[bytes]: ...
