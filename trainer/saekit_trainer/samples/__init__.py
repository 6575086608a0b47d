"""What data sets are made of, read from any place on."""
