"""Where labelled pictures come from: one file per kind of source, and `open` that tells which it is."""
