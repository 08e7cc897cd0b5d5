"""What the user writes: frozen dataclasses, and the YAML they come from."""
