"""What computing costs: mixers, whole models, memory banks and losses, a process per sample."""
