"""RetriBooru's data set (section 3 of the paper), built from any folder of tagged pictures."""
