"""One page with the results: charts and HTML."""
