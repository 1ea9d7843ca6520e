"""Tests, a mirror of the source tree. A package, so that ``from tests.helpers import golden`` works everywhere."""
