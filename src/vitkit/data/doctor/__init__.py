"""What is wrong with a set of pictures and labels: every fault, suspicion and oddity, named and judged."""
