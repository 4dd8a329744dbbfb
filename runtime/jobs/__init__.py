"""Translation jobs: a video, an image or a folder, from the request to the report."""
