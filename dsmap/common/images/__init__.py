"""Images on disk: what a file is, what a folder holds, reading as sRGB, writing. A leaf: every part may use it."""
