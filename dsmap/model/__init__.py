"""The network: layers, generators, discriminators, and the networks whose features losses use."""
