"""Slow, obvious pure-Python twins of the native modules: tests compare the two, nothing ships."""
