"""optimum-neuron imports two modules of it; only a torchrun job would call them."""
