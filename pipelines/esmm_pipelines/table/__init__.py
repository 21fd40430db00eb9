"""A table of impressions, one per row, to grouped records."""
