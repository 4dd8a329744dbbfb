"""Models that people share: on the Hugging Face Hub, pulled into the user's cache, or known by a name."""
