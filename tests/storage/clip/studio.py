"""Footage into a real volume through the real recorder, and clips out of it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cext.arena import Fragment
from gateway.media.codec import Codec
from gateway.media.parameter_sets import codec_config
from storage.audit.events import AuditEvent
from storage.base.gap import Gap
from storage.base.grant import ExtractionGrant, Official
from storage.base.timebase import TimeRange
from storage.clip.reader import Clip, ClipLimits, ClipReader
from storage.recorder import FragmentMeta
from tests.storage.rig import INSTALLATION, Rig, uid

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
CAMERA = "gate-1"
UID = uid(1)
SECOND = 1_000_000_000
TICK = 3600


@dataclass(frozen=True, repr=False)
class Frame:
    """One access unit: length-prefixed NAL units, 90 kHz presentation time from the start."""

    sample: bytes
    pts: int
    key: bool
    sets: tuple[bytes, ...]  # parameter sets in force


@dataclass(frozen=True, repr=False)
class Footage:
    codec: int
    frames: list[Frame]  # decoding order
    interval: int

    def time_ns(self, frame: Frame, start_ns: int) -> int:
        return start_ns + frame.pts * SECOND // 90_000


def annexb_nals(data: bytes) -> list[bytes]:
    """NAL units between start codes, trailing zero bytes off."""
    nals = []
    at = data.find(b"\0\0\1")
    while at >= 0:
        start = at + 3
        at = data.find(b"\0\0\1", start)
        nal = data[start : at if at >= 0 else len(data)].rstrip(b"\0")
        if nal:
            nals.append(nal)
    return nals


def load_footage(path: Path, codec: int, interval: int = TICK) -> Footage:
    """Access units of an elementary stream; presentation order as the decoder puts them out."""
    format_name = "h264" if codec == 1 else "hevc"
    with av.open(str(path), format=format_name) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    decoder = av.CodecContext.create(format_name, "r")
    order: list[int] = []
    for number, data in enumerate([*packets, None]):
        packet = None if data is None else av.Packet(data)
        if packet is not None:
            packet.pts = packet.dts = number
        try:
            order += [frame.pts for frame in decoder.decode(packet) if frame.pts is not None]
        except av.error.InvalidDataError:
            continue
    rank = {number: place for place, number in enumerate(dict.fromkeys(order))}
    if set(rank) != set(range(len(packets))):
        # Pictures the decoder never puts out: decoding order then, it has no B pictures.
        rank = {number: number for number in range(len(packets))}
    frames = []
    sets: dict[bytes, None] = {}
    for number, data in enumerate(packets):
        nals = annexb_nals(data)
        kinds = [nal[0] & 31 if codec == 1 else nal[0] >> 1 & 63 for nal in nals]
        fresh = [
            nal
            for nal, kind in zip(nals, kinds, strict=True)
            if kind in ((7, 8) if codec == 1 else (32, 33, 34))
        ]
        if any(nal not in sets and nal[0] & 31 == 7 for nal in fresh if codec == 1):
            sets = {}  # another SPS: the sets before it are no longer in force
        sets = {**sets, **dict.fromkeys(fresh)}
        key = any(kind == 5 if codec == 1 else 16 <= kind <= 21 for kind in kinds)
        sample = b"".join(len(nal).to_bytes(4, "big") + nal for nal in nals)
        frames.append(Frame(sample, rank[number] * interval, key, tuple(sets)))
    return Footage(codec, frames, interval)


def synthetic(
    count: int,
    *,
    size: int = 600,
    gop: int = 12,
    reorder: bool = False,
    seed: int = 0,
    interval: int = TICK,
    sets: tuple[bytes, ...] = (),
) -> Footage:
    """Frames no decoder wants, for everything that is not about decoding."""
    frames = []
    for number in range(count):
        place = number
        in_gop = number % gop
        if reorder and in_gop and (in_gop - 1) // 3 * 3 + 3 < gop and number // gop < count // gop:
            # I P B B P B B ...: a P picture comes two before its turn.
            place = number + (2 if in_gop % 3 == 1 else -1)
        nal = (
            bytes([0x65 if number % gop == 0 else 0x41]) + bytes([seed]) + number.to_bytes(4, "big")
        )
        nal += bytes((number + k) % 251 + 1 for k in range(size - len(nal) % 7))
        frames.append(
            Frame(len(nal).to_bytes(4, "big") + nal, place * interval, number % gop == 0, sets)
        )
    assert sorted(frame.pts for frame in frames) == [n * interval for n in range(count)]
    return Footage(1, frames, interval)


class Studio:
    """An installation with one camera. record() may be called several times, forward in time."""

    def __init__(self, root: Path, **rig: Any) -> None:
        self.rig = Rig(root, **rig).create()
        self.store = self.rig.open()
        self.start_ns = self.rig.clock.utc_ns() - 3_600 * SECOND
        self.audited: list[AuditEvent] = []
        self.config_ids: dict[bytes, int] = {}
        self.run_id = 0
        self.footage = Footage(1, [], TICK)

    def close(self) -> None:
        self.store.close()

    def record(
        self,
        footage: Footage,
        start_ns: int,
        *,
        per_fragment: int = 25,
        gaps: Iterable[Gap] = (),
        camera_uid: bytes = UID,
    ) -> int:
        """Write frames, then gaps that begin no earlier than the last fragment; returns the end."""
        recorder = self.rig.recorder(self.store)
        recorder.start()
        camera = recorder.open_camera(camera_uid, CAMERA, self.rig.retention)
        self.run_id += 1
        end_ns = start_ns
        frames = footage.frames
        first = 0
        while first < len(frames):
            last = first + 1
            while (
                last < len(frames)
                and last - first < per_fragment
                and frames[last].sets == frames[first].sets
            ):
                last += 1
            group = frames[first:last]
            fragment, meta = self._fragment(footage, group, start_ns)
            end_ns = max(end_ns, meta.end_ns)
            assert camera.submit(fragment, meta)
            first = last
        for gap in gaps:
            assert camera.submit_gap(gap)
        assert recorder.stop(60)
        return end_ns

    def _fragment(
        self, footage: Footage, group: Sequence[Frame], start_ns: int
    ) -> tuple[Fragment, FragmentMeta]:
        fragment = Fragment.from_samples(
            self.rig.pool,
            footage.codec,
            90_000,
            [
                (f.sample, f.pts + 1_000_000, start_ns + f.pts * SECOND // 90_000, int(f.key))
                for f in group
            ],
        )
        config = codec_config(Codec(footage.codec), group[0].sets)
        body = config.config_bytes or b"\1B\0\x1e\xff\xe0\0"
        low, high = min(f.pts for f in group), max(f.pts for f in group)
        return fragment, FragmentMeta(
            start_ns=start_ns + low * SECOND // 90_000,
            end_ns=start_ns + (high + footage.interval) * SECOND // 90_000,
            camera_ns=0,
            camera_offset_ns=0,
            run_id=self.run_id,
            width=config.width or 64,
            height=config.height or 48,
            flags=0,
            codec_config=body,
            codec_config_id=self.config_ids.setdefault(body, len(self.config_ids) + 1),
            recv_quantum_ns=0,
        )

    def token(self, **changes: Any) -> str:
        now_ns = self.rig.clock.utc_ns()
        grant = ExtractionGrant(
            **{
                "grant_id": "g-1",
                "installation_uuid": INSTALLATION,
                "cameras": (CAMERA,),
                "start_ns": self.start_ns - 3_600 * SECOND,
                "end_ns": now_ns,
                "action": "copy",
                "document_no": "(2026) 17",
                "officials": (Official("A", "1"), Official("B", "2")),
                "issued_ns": now_ns,
                "expires_ns": now_ns + SECOND,
                "trial": self.rig.trial,
                **changes,
            }
        )
        parts = [{"alg": "Ed25519", "typ": "ringvault-grant+jwt"}, grant.to_payload()]
        text = ".".join(_b64(json.dumps(part).encode()) for part in parts)
        return f"{text}.{_b64(KEY.sign(text.encode()))}"

    def audit(self, event: AuditEvent) -> int:
        self.audited.append(event)
        return len(self.audited) - 1

    def open(
        self,
        start_ns: int,
        end_ns: int,
        *,
        token: str | None = None,
        limits: ClipLimits | None = None,
        camera_id: str = CAMERA,
        **arguments: Any,
    ) -> Clip:
        return ClipReader.open(
            self.token() if token is None else token,
            camera_id,
            UID,
            **{
                "store": self.store,
                "verify_key": KEY.public_key(),
                "installation_uuid": INSTALLATION,
                "clock": self.rig.clock,
                "audit": self.audit,
                "requested": TimeRange(start_ns, end_ns),
                "limits": limits,
                **arguments,
            },
        )


def whole(clip: Clip) -> bytes:
    data = b"".join(clip.read(0, clip.size_bytes))
    assert len(data) == clip.size_bytes
    return data


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
