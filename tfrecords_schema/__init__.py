"""Schemas of known logs, and the format of schema files (README.md). A wheel has them as data."""
