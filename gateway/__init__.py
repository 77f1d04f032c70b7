"""The gateway: protocols, processes and people.

Owns everything that talks to a camera or a person. Writes footage only through ``storage`` and
never touches a volume itself. Imports run gateway -> storage -> cext (docs/design/overview.md).
"""
