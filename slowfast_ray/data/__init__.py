"""Ground floor, wing A: recordings and annotations in, batches of clips out. Knows nothing of models or learning."""
