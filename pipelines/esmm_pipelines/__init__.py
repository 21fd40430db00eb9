"""Raw logs to grouped TFRecords."""
