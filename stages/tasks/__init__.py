"""What is trained on what, and how it is scored: model, batches, loss, metric."""
