"""The service: events in and recommendations out over HTTP (`longrec serve`)."""
