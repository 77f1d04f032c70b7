"""Access units to RTP packets, prepared once and stamped many times.

A `PacketTemplate` holds a whole clip cut into RTP packets, each behind its interleaved header
(RFC 2326 section 10.12), laid out as it goes over TCP. To send an access unit is one memcpy and
a few stores a packet: channel, sequence number, timestamp and SSRC. Packetization follows
RFC 6184 (single NAL unit, STAP-A, FU-A) and RFC 7798 (single NAL unit, AP, FU; no DONL).

It never paces, sends or decides what a camera is; it never changes, drops or reorders a NAL unit.

- A template never changes after construction, so any number of threads may stamp from it.
- The last packet of an access unit, and no other, carries the marker bit.
- Only runs of parameter sets are aggregated, so a receiver meets every packet kind.
"""

from cpython.array cimport array
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

H264 = 1
H265 = 2

cdef enum:
    CODEC_H264 = 1
    CODEC_H265 = 2
    INTERLEAVED_BYTES = 4   # "$", channel, length
    RTP_BYTES = 12
    PREFIX_BYTES = 16       # both
    PACKET_BYTES_MIN = 64
    PACKET_BYTES_LIMIT = 65535
    STAP_A = 24
    FU_A = 28
    AP = 48
    FU = 49


cdef inline void store16(uint8_t *at, uint16_t value) noexcept nogil:
    at[0] = <uint8_t>(value >> 8)
    at[1] = <uint8_t>value


cdef inline void store32(uint8_t *at, uint32_t value) noexcept nogil:
    at[0] = <uint8_t>(value >> 24)
    at[1] = <uint8_t>(value >> 16)
    at[2] = <uint8_t>(value >> 8)
    at[3] = <uint8_t>value


def _nal_type(int codec, bytes nal) -> int:
    return nal[0] & 31 if codec == CODEC_H264 else (nal[0] >> 1) & 63


def _check_nal(int codec, bytes nal):
    """A NAL unit whose type is taken by the payload format cannot be carried by it."""
    header_bytes = 1 if codec == CODEC_H264 else 2
    if len(nal) < header_bytes:
        raise ValueError(f"NAL unit of {len(nal)} bytes is shorter than its header")
    kind = _nal_type(codec, nal)
    taken = kind == 0 or kind >= STAP_A if codec == CODEC_H264 else kind >= AP
    if taken:
        raise ValueError(f"NAL unit type {kind} is reserved by the RTP payload format")


def _is_parameter_set(int codec, bytes nal) -> bool:
    kind = _nal_type(codec, nal)
    return kind in (7, 8) if codec == CODEC_H264 else kind in (32, 33, 34)


def _aggregate(int codec, list nals) -> bytes:
    """One STAP-A (RFC 6184 section 5.7.1) or AP (RFC 7798 section 4.4.2) payload."""
    if codec == CODEC_H264:
        forbidden = 0
        reference = 0
        for nal in nals:
            forbidden |= nal[0] & 0x80
            reference = max(reference, nal[0] & 0x60)
        head = bytes((forbidden | reference | STAP_A,))
    else:
        forbidden = 0
        layer = 63
        temporal = 7
        for nal in nals:
            forbidden |= nal[0] & 0x80
            layer = min(layer, (nal[0] & 1) << 5 | nal[1] >> 3)
            temporal = min(temporal, nal[1] & 7)
        head = bytes((forbidden | AP << 1 | layer >> 5, (layer & 31) << 3 | temporal))
    return head + b"".join([len(nal).to_bytes(2, "big") + nal for nal in nals])


def _fragment(int codec, bytes nal, int payload_max) -> list:
    """FU-A (RFC 6184 section 5.8) or FU (RFC 7798 section 4.4.3) payloads of one NAL unit."""
    if codec == CODEC_H264:
        head = bytes((nal[0] & 0xE0 | FU_A,))
        kind = nal[0] & 31
        body = nal[1:]
    else:
        head = bytes((nal[0] & 0x81 | FU << 1, nal[1]))
        kind = (nal[0] >> 1) & 63
        body = nal[2:]
    step = payload_max - len(head) - 1
    payloads = []
    for at in range(0, len(body), step):
        start = 0x80 if at == 0 else 0
        end = 0x40 if at + step >= len(body) else 0
        payloads.append(head + bytes((start | end | kind,)) + body[at:at + step])
    return payloads


def _payloads(int codec, list nals, int payload_max, bint aggregate) -> list:
    """The RTP payloads of one access unit, in order."""
    out = []
    run = []            # parameter sets waiting to be aggregated
    run_bytes = 0

    def close_run():
        if len(run) == 1:
            out.append(run[0])
        elif run:
            out.append(_aggregate(codec, run))
        run.clear()

    head_bytes = 1 if codec == CODEC_H264 else 2
    for nal in nals:
        _check_nal(codec, nal)
        fits = len(nal) <= payload_max
        if aggregate and fits and _is_parameter_set(codec, nal):
            if run and head_bytes + run_bytes + 2 + len(nal) > payload_max:
                close_run()
                run_bytes = 0
            run.append(nal)
            run_bytes += 2 + len(nal)
            continue
        close_run()
        run_bytes = 0
        if fits:
            out.append(nal)
        else:
            out.extend(_fragment(codec, nal, payload_max))
    close_run()
    return out


cdef uint32_t packet_length(
        const rv_packet_template *template, uint32_t frame, uint32_t packet) noexcept nogil:
    """Bytes of one framed packet of an access unit."""
    cdef const rv_access_unit_span *span = &template.spans[frame]
    cdef const uint32_t *offsets = template.packet_offsets + span.first_packet
    if packet + 1 == span.packet_count:
        return span.length - offsets[packet]
    return offsets[packet + 1] - offsets[packet]


cdef uint32_t stamp(
        const rv_packet_template *template, uint32_t frame, uint8_t *out, uint8_t channel,
        uint16_t sequence, uint32_t timestamp, uint32_t ssrc) noexcept nogil:
    """Copy one access unit to ``out`` (room for its length) and fill the headers; its length."""
    cdef const rv_access_unit_span *span = &template.spans[frame]
    cdef const uint32_t *offsets = template.packet_offsets + span.first_packet
    cdef uint8_t *packet
    cdef uint32_t n
    memcpy(out, template.data + span.offset, span.length)
    for n in range(span.packet_count):
        packet = out + offsets[n]
        packet[1] = channel
        store16(packet + 6, <uint16_t>(sequence + n))
        store32(packet + 8, timestamp)
        store32(packet + 12, ssrc)
    return span.length


cdef class PacketTemplate:
    """A clip cut into framed RTP packets.

    ``access_units`` is a sequence of access units, each a sequence of NAL units (bytes, no start
    code). ``packet_bytes_max`` bounds an RTP packet, its 12-byte header included. Raises
    ValueError for an empty access unit, a NAL unit that the payload format cannot carry, or a
    bound outside [64, 65535].
    """

    def __cinit__(self, int codec, int payload_type, access_units, *,
                  int packet_bytes_max=1440, bint aggregate=True):
        if codec not in (CODEC_H264, CODEC_H265):
            raise ValueError(f"codec {codec} is neither 1 (H.264) nor 2 (H.265)")
        if not 0 <= payload_type <= 127:
            raise ValueError(f"payload type {payload_type} does not fit seven bits")
        if not PACKET_BYTES_MIN <= packet_bytes_max <= PACKET_BYTES_LIMIT:
            raise ValueError(f"packet_bytes_max {packet_bytes_max} is not in [64, 65535]")
        cdef list units = list(access_units)
        if not units:
            raise ValueError("a template needs at least one access unit")
        self.codec = codec
        self.payload_type = payload_type
        self.packet_bytes_max = packet_bytes_max
        self.template.spans = <rv_access_unit_span *>calloc(
            len(units), sizeof(rv_access_unit_span))
        if self.template.spans == NULL:
            raise MemoryError()
        cdef bytearray data = bytearray()
        cdef array offsets = array("I")
        cdef rv_access_unit_span *span
        for number, unit in enumerate(units):
            payloads = _payloads(codec, [bytes(nal) for nal in unit],
                                 packet_bytes_max - RTP_BYTES, aggregate)
            if not payloads:
                raise ValueError(f"access unit {number} has no NAL unit")
            span = &self.template.spans[number]
            span.offset = len(data)
            span.first_packet = len(offsets)
            span.packet_count = len(payloads)
            start = 0
            for payload in payloads:
                start = len(data) - span.offset
                offsets.append(start)
                data += b"$\0" + (RTP_BYTES + len(payload)).to_bytes(2, "big")
                data += bytes((0x80, payload_type)) + bytes(10)
                data += payload
            marker = span.offset + start + INTERLEAVED_BYTES + 1
            data[marker] = 0x80 | payload_type      # on the last packet only
            if len(data) - span.offset > 0xFFFFFFFF:
                raise ValueError(f"access unit {number} exceeds 4 GiB")
            span.length = <uint32_t>(len(data) - span.offset)
            self.frame_bytes_max = max(self.frame_bytes_max, span.length)
        self._data = bytes(data)
        self._packet_offsets = offsets
        self.template.data = <const uint8_t *>PyBytes_AS_STRING(self._data)
        self.template.packet_offsets = <const uint32_t *>offsets.data.as_voidptr
        self.template.frame_count = len(units)
        self.packet_count = len(offsets)
        self.total_bytes = len(self._data)

    def __dealloc__(self):
        free(self.template.spans)

    def __len__(self):
        return self.template.frame_count

    @property
    def frame_count(self):
        """Access units of the clip."""
        return self.template.frame_count

    cdef const rv_access_unit_span *span(self, Py_ssize_t frame) except NULL:
        if not 0 <= frame < self.template.frame_count:
            raise IndexError(f"frame {frame} of a template of {self.template.frame_count}")
        return &self.template.spans[frame]

    def frame_bytes(self, Py_ssize_t frame):
        """Bytes of an access unit as it goes over TCP, interleaved headers included."""
        return self.span(frame).length

    def frame_packets(self, Py_ssize_t frame):
        """RTP packets of an access unit: how far the sequence number moves."""
        return self.span(frame).packet_count

    def write(self, Py_ssize_t frame, uint8_t[::1] out, Py_ssize_t offset, *,
              uint8_t channel, uint16_t sequence, uint32_t timestamp, uint32_t ssrc):
        """Write an access unit, framed for interleaved TCP, at ``out[offset:]``.

        Returns the bytes written; raises ValueError when there is too little room. The sequence
        number is that of its first packet.
        """
        cdef uint32_t length = self.span(frame).length
        if offset < 0 or out.shape[0] - offset < length:
            raise ValueError(f"{length} bytes do not fit at {offset} of {out.shape[0]}")
        with nogil:
            stamp(&self.template, <uint32_t>frame, &out[offset], channel, sequence, timestamp,
                  ssrc)
        return length

    def packets(self, Py_ssize_t frame, *, uint16_t sequence, uint32_t timestamp, uint32_t ssrc):
        """The access unit's plain RTP packets, for UDP or a capture file."""
        cdef const rv_access_unit_span *span = self.span(frame)
        cdef bytes framed = PyBytes_FromStringAndSize(NULL, span.length)
        cdef char *at = PyBytes_AS_STRING(framed)
        cdef list out = []
        cdef uint32_t n, length
        stamp(&self.template, <uint32_t>frame, <uint8_t *>at, 0, sequence, timestamp, ssrc)
        for n in range(span.packet_count):
            length = packet_length(&self.template, <uint32_t>frame, n)
            out.append(PyBytes_FromStringAndSize(at + INTERLEAVED_BYTES,
                                                 length - INTERLEAVED_BYTES))
            at += length
        return out
