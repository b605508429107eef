"""Why a model answered as it did: read from outside through the attention tap, drawn over the picture, and tested."""
