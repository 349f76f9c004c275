"""Ground floor, wing C: loss, schedule, optimiser, counts, predictions, intervals, loop, checkpoints.

Knows no Ray, no MLflow, no data.
"""
