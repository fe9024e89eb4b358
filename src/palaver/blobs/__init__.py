"""Blob stores: one adapter over `obstore` for a folder, memory and object storage."""
