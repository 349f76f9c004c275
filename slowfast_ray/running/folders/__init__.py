"""What a run keeps, in a folder or at a URL: how it began, its log, its copy elsewhere."""
