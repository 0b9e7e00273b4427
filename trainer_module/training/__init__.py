"""Networks and training of the recipes, which need Keras; each belongs to a recipe of its name."""
