"""Atelier's engine: VQGAN, latent diffusion and their training, usable without the studio."""
