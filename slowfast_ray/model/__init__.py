"""Ground floor, wing B: the SlowFast network. The one door to pytorchvideo; knows nothing of data or learning."""
