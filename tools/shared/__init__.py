"""What several commands share: option groups, progress bars, JSON reports."""
