"""Work for processes of a Ray cluster: logs prepared, models trained, users recommended to."""
