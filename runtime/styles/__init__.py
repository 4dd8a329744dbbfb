"""Resolution of styles, styles over time, and translation strength."""
