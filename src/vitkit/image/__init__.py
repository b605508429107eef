"""Pictures to pixels with NumPy and Pillow alone: decode, fetch, list, and one preprocessing for every use."""
