"""Sockets: the one place where the wire machines of ``rtsp`` and the native demuxer meet a loop."""
