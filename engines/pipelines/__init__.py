"""Pipelines of diffusers from the artist's folders: the peer in the same worker, from the same seeds and noise."""
