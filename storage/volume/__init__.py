"""A volume: one disk as a ring of fixed-size slots (docs/design/volume-format.md)."""
