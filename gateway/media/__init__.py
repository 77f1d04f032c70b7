"""What video means, without I/O: parameter sets, the timeline, and the sink fragments go to.

Never opens a file or a socket, never reads a clock; meets storage through ``sink`` alone.
"""
