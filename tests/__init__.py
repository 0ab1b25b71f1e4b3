"""Tests of rivulet; a package so that equivalence tests can share their models."""
