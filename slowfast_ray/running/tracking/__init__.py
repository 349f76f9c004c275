"""MLflow: what it is told, by a journal that survives it. tracking.py is the door, the others are the rooms behind."""
