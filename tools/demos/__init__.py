"""`make demo`: draw data, train once, test and time every strategy, write table and picture.
`segmentation.py` and `pose.py` are the two; the other files are what they share."""
