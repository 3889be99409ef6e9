"""A user's record: its bytes, and the model's step that takes an event in."""
