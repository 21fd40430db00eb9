"""The front door's `Estimator`: one model directory, with what the commands do as methods."""
