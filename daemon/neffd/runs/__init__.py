"""What is known of runs: optimum-neuron's registry of compiled models, in all its generations."""
