"""Looking after a store: backups, checks, and what is not needed any more."""
