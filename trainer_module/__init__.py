"""What runs inside Transform and Trainer: preprocessing, recipes, models and export."""

from components import environment

# Here, as this is imported before Keras in every process that trains, TFX's own included.
environment.pin_keras()
