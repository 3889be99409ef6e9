"""What is kept of a user for one model, and what an event does to it."""
