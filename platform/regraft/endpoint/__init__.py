"""Models over HTTP: routes, keys, formats of requests, and a page to try them. It does not use Ray."""
