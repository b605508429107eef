"""Texts to token ids, by the tokenizer files of a checkpoint: without torch, and knowing nothing of models."""
