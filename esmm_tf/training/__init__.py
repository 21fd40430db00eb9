"""A training run: its trainer, its guards and the directory that it leaves."""
