"""Work shared out to processes of a Ray cluster: logs prepared, and users recommended to."""
