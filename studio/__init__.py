"""The web studio and the command line; never imports torch itself."""
