"""Checkpoints scored again, their tables and pictures, and two runs compared."""
