"""Clips: verified footage as a virtual MP4 file, handed out against a grant."""
