"""Conversion-rate estimation over the entire impression space (ESMM, SIGIR 2018)."""

__version__ = "0.1.0"
