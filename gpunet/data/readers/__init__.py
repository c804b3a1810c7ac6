"""Readers of data sets in files: of public ones by name, of folders of images, of COCO and of Pascal VOC."""
