"""What an event and a recommendation cost: through streams of this process, and over HTTP."""
