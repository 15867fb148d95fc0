"""The one training loop, which serves every family and never asks which family it is."""
