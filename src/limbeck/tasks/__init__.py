"""What do the data mean? A task turns batches into signals and measures models."""
