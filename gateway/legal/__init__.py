"""What the law asks before anything happens: places, documents, people, grants.

Knows nothing of cameras being recorded (``gateway.ingest`` is a stranger); ``gateway/app.py``
brings the two together.
"""
