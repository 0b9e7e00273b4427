"""ImageExampleValidator: what is wrong with the data stops the run or is reported."""
