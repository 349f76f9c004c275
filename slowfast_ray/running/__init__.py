"""First floor: experiments become runs, searches and MLflow entries. Imports what is below, never the reverse."""
