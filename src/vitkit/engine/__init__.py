"""Ways to run a model on uint8 pixels, and the Predictor that turns pictures into answers through one of them."""
