"""A search: its space and its rules, who suggests and who stops, its trials, its finalists."""
