"""Training a mapper: the run, the step, its options, the toy run."""
