"""What runs inside Transform and Trainer: preprocessing, recipes, models and export."""
