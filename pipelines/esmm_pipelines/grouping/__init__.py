"""Rows into impression groups: splits, order, samples, and what is rejected."""
