"""Fakes: test doubles of trainings, tasks, stores, servers, workers and coordinators."""
