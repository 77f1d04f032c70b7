"""C face of ``cext.track``: one RTP packet in, no Python."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from cext.arena cimport ArenaPool, rv_fragment


cdef extern from "track.h":
    cpdef enum:
        EVENT_TEXT "RV_EVENT_TEXT"
        EVENT_FRAGMENT "RV_EVENT_FRAGMENT"
        EVENT_CONFIG "RV_EVENT_CONFIG"
        EVENT_SENDER_REPORT "RV_EVENT_SENDER_REPORT"
        EVENT_SSRC_CHANGED "RV_EVENT_SSRC_CHANGED"
        EVENT_BYE "RV_EVENT_BYE"
        EVENT_BROKEN "RV_EVENT_BROKEN"

    enum:
        RV_EVENT_NO_MEMORY

    ctypedef struct rv_track:
        pass


# Events; never fail. What they count and close is read through the VideoTrack.
cdef int track_receive(
    rv_track *track, const uint8_t *packet, size_t nbytes, int64_t recv_ns
) noexcept nogil
cdef int track_receive_rtcp(
    rv_track *track, const uint8_t *packet, size_t nbytes, int64_t recv_ns
) noexcept nogil
cdef int track_tick(rv_track *track, int64_t now_ns) noexcept nogil


cdef class VideoTrack:
    cdef rv_track *track
    cdef ArenaPool _pool            # outlives every arena the track holds
    cdef tuple _parameter_sets      # of generation _generation
    cdef uint32_t _generation

    cdef tuple parameter_sets_of(self, const void *snapshot)
    cdef int checked(self, int events) except -1
