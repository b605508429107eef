"""One model as one readable file: the encoder's own code, without what this model doesn't use."""
