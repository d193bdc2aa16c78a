"""Runtimes: where the clients are. Each takes the sum of a round over a cohort."""
