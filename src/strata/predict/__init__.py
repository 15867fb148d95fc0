"""What one does with a trained model: answer, generate, evaluate."""
