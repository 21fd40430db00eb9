"""The raw files of Ali-CCP to grouped records."""
