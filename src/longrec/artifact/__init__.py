"""What is trained and served: a model with its catalog, saved and loaded whole."""
