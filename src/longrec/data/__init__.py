"""From logs to events, to histories on disk, to splits and batches; named public logs."""
