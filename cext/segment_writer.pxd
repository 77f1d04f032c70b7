"""Nothing of ``cext.segment_writer`` is for other native modules; see segment_write.h for C."""
