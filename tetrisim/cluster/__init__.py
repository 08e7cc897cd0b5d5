"""The life of a request, one station a file."""
