"""A search as pictures: charts of its trials and of its fields, as PNG files and as one page."""
