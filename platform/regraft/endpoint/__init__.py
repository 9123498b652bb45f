"""Models over HTTP: who may ask what, in which form, and a page to try them; no Ray, so it is tested without."""
