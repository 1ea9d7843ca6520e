"""Every family through one runner."""
