"""A bundle as a page for browsers: a folder of static files that needs no program on the server."""
