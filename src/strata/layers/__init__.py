"""Bricks that several models share: tensors in, tensors out. What one model alone needs stays in that model's file."""
