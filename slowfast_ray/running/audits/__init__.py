"""What an audit says of a dataset, on the terminal, as JSON, and as a page with pictures."""
