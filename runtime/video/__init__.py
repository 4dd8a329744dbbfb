"""Video files and streams: reading, timing, writing."""
