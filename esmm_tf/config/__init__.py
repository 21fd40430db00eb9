"""Settings: one frozen dataclass a concern, and the flags that are derived from them."""
