"""Where documents are kept, and the objects of this process that show them."""
