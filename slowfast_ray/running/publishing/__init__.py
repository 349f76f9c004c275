"""A checkpoint for others: model folder, model card, the registry, programs for other machines."""
