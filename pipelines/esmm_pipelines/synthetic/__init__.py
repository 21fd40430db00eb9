"""Simulated logs with a known truth."""
