"""What several scripts of the lab need: the synthetic world, models, sampling, figures and results."""
