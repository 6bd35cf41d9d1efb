"""File formats: what a weights file says, checked before it is believed."""
