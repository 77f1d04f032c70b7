"""Feeds: which cameras should be recorded, the sessions that do it, and their health.

``legal`` is a stranger here: who may see footage is not ingest's business.
"""
