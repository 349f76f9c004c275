"""Ground floor, wing C: loss, schedule, optimiser, counts, loop, checkpoints. Knows no Ray, no MLflow, no data."""
