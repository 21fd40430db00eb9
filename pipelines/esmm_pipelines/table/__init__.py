"""A table of impressions, one a row, to grouped records."""
