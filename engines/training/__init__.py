"""Training: data, augmentation, losses, the loop, and one file a trainer."""
