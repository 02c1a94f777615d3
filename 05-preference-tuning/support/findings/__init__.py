"""What every script says of its metrics: sentences for the terminal, one module a script."""
