"""`python -m tetrisim`."""

from tetrisim.cli.main import app

app(prog_name="tetrisim")
