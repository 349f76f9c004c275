"""Roof: one dict a question, in ray.tune's own words; the keys are fields of an Experiment."""
