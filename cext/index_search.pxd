"""C face of ``cext.index_search``: none; it is called from Python, once a lookup."""
