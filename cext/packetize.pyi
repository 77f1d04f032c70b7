from collections.abc import Sequence
from typing import Self

from typing_extensions import Buffer

H264: int
H265: int

class PacketTemplate:
    @property
    def codec(self) -> int: ...
    @property
    def payload_type(self) -> int: ...
    @property
    def packet_bytes_max(self) -> int: ...
    @property
    def packet_count(self) -> int: ...
    @property
    def frame_bytes_max(self) -> int: ...
    @property
    def total_bytes(self) -> int: ...
    @property
    def frame_count(self) -> int: ...
    def __new__(
        cls,
        codec: int,
        payload_type: int,
        access_units: Sequence[Sequence[bytes]],
        *,
        packet_bytes_max: int = 1440,
        aggregate: bool = True,
    ) -> Self: ...
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
    def packets(self, frame: int, *, sequence: int, timestamp: int, ssrc: int) -> list[bytes]: ...
