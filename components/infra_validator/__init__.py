"""InfraValidator: a model server has to serve the candidate as the trainer's process does."""
