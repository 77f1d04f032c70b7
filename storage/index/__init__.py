"""The retention index: a ring per camera that says which records hold a time range."""
