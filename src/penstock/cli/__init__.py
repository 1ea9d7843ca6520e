"""The command line: ``penstock COMMAND``. One file a command, imported only when it is the one asked for."""
