"""One verb per file: the wiring between the rooms below, and what the package and the command offer."""
