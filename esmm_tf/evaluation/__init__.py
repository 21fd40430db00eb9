"""A model's scores of a log, and what they are worth."""
