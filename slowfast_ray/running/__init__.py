"""First floor: experiments become runs, searches and MLflow entries. Imports everything below; nothing below imports it."""
