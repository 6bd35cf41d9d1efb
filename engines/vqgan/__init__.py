"""The VQGAN: autoencoder, vector quantizer, discriminator (Esser et al., 2021)."""
