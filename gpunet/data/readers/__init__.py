"""Readers of data sets: public ones by name, folders of images, COCO and Pascal VOC."""
