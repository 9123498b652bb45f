"""The frozen first part of a model: computed once for each row, kept, and handed back wherever it is needed."""
