"""The version of autocompress, for modules that may not import the public names above them."""

__version__ = "0.1.0"
