"""Durable truth: volumes, index, clips, audit. Synchronous code and threads; no network, no HTTP.

Imports run ``gateway -> storage -> cext``, never upward. Inside: ``clip`` > ``index`` > ``volume``
> ``base``; ``audit`` > ``base``. docs/design/volume-format.md is the specification.
"""
