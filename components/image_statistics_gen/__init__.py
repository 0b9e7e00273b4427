"""ImageStatisticsGen: statistics of the derived features; image bytes are left where they are."""
