"""Metrics of pCTR, pCVR and pCTCVR: exact ones of whole logs, streaming ones during training."""
