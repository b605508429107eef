"""Weights from and to files: presets, name tables, reading, writing, the Hub, and every checkpoint's proof."""
