"""The machines that train: joining them, asking whether they are fit, and how trials share them."""
