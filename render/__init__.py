"""Cameras, sampling, compositing, losses and metrics: from a field to an image, differentiably."""
