"""What a part of the method buys: grids of runs, scored query by query and compared with the full model."""
