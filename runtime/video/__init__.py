"""Video files and streams: opening, decoding, timestamps and side data."""
