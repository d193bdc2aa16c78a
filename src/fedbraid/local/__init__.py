"""Local: what a client computes on its own data."""
