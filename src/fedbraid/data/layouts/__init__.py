"""The layouts in which authors publish their data sets, one reader a family: a path in, `Splits` out."""
