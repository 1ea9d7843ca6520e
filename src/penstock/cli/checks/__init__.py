"""What ``penstock doctor`` looks at. Each check is a function that yields findings and never raises."""
