"""How long one step takes: measured tables, a roofline where there is none, and a label on every second."""
