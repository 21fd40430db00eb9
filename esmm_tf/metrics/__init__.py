"""Metrics of pCTR, pCVR and pCTCVR: exact ones of whole logs, streaming ones of a training."""
