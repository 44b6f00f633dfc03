"""What turns pictures into scores: weights, inputs, the metric, outputs."""
