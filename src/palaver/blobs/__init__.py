"""Blob stores: a folder and memory, and object storage through `obstore`."""
