"""Recordings that a network has not seen: what people hand in, the table that comes back, its pictures, its server."""
