"""Events of users as they come, and recommendations at once."""
