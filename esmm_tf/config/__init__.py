"""Settings: one frozen dataclass per concern, and the flags that are derived from them."""
