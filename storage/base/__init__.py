"""What every other part of storage stands on: clock, ids, time ranges, disk operations."""
