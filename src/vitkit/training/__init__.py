"""Training: one visible loop, the objectives plugged into it, and everything that makes it resume to the bit."""
