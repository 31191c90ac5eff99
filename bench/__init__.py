"""`fastconv bench` and `fastconv demo`: verify, then time; train on real images and compare."""
