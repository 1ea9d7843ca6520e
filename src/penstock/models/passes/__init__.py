"""Rewrites of programs: pure functions from Program to Program."""
