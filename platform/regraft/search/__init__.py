"""Many trials of one spec: which fields are searched, who decides, what trials share, what a person sees of it."""
