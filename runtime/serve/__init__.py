"""A server for translation: the web page in front of this machine, and an HTTP API. Needs `dsmap[serve]`."""
