"""Pictures and data sets for training."""
