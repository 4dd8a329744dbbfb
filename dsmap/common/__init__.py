"""What every part of the project may use: no part of it imports another part."""
