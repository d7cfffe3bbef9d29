"""Retrieval on MS-COCO and Flickr30k."""
