"""RTSP 1.0 without I/O: messages, parser, authentication, SDP, client and server machines.

Bytes in, bytes and events out. Never opens a socket, never reads a clock (docs/design/rtsp.md).
"""
