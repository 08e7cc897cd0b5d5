"""What a station asks: pure choices over read-only views. See `registry.py` for all names."""
