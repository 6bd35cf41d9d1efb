"""Latent diffusion: the net, and around it noise schedules, denoisers, guidance and samplers."""
