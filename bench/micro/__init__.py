"""Micro-benches of the native modules: `pytest bench/micro`. Each checks what it measured.

Figures are relative: compare runs on one machine, one after the other. `bytes_per_s` and
`peer_bytes_per_s` in each bench's extra_info say what the times mean.
"""
