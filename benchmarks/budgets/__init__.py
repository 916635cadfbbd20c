"""What the TPU compiler says of the model's programs, compared with committed budgets."""
