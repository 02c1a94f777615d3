"""What several labs need: the synthetic world, models, sampling, the command line, results."""
