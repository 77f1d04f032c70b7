"""Logs, metrics and the limiter of error storms. Nothing here decides; it only tells."""
