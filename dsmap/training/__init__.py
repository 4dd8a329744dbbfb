"""Training: what happens between two folders of images and a checkpoint."""
