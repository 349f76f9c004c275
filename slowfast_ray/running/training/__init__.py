"""One training, in this process or over the workers of a cluster: what it needs, what it does, what it dies of."""
