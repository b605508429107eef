"""Every nn.Module of vitkit and the frozen specs that describe them; knows nothing of files, pictures or training."""
