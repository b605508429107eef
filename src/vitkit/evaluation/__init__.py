"""How good a model's answers are: labelled pictures in, scores out."""
