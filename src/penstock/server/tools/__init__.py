"""Tool calls: which a request may offer, and how each family writes the ones it makes.

A format is a parser that is fed text as it comes and gives pieces; whole answers go through the same parser.
"""

from __future__ import annotations
