"""Models as graphs that run without vitkit: preprocessing inside, names and proof beside."""
