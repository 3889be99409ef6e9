"""Settings of models and of training: checked at the border, and described."""
