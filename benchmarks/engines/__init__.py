"""One module an engine, each with a class ``Engine(spec)`` that answers requests by token id, greedy, EOS ignored.

``Engine.run(requests)`` takes [(prompt ids, new tokens)] and returns how many tokens were generated. ``spec`` (a dict):
``model``, ``format``, ``threads``, ``context`` (tokens of the longest request), ``streams`` (requests at once at most).
They run in the engine's own interpreter: nothing but the standard library and that engine may be imported here.
"""
