"""What turns images into scores: weights, inputs, the metric, outputs."""
