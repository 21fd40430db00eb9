"""The systems that estimate conversion rates, one small declaration a file."""
