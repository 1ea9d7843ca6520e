"""The page at ``/``: built files, and the numbers that it draws. Its sources are in ``webui/``."""
