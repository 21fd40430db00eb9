"""Records on disk: written, found, read, parsed, batched and sampled."""
