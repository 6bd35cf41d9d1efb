"""Tasks: a request in, pictures out. One file a task."""
