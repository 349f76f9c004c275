"""What can only be refused at the start itself, and is said in one line."""


class RefusedError(ValueError):
    """A folder that was taken meanwhile, a cluster that is too small, machines that are not fit."""
