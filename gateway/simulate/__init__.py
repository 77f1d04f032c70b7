"""RTSP cameras that are none: they play a file for demonstrations, tests and benchmarks."""
