"""Networks: layers, generators, discriminators, and frozen feature networks."""
