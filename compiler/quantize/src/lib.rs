//! From a parameter recipe to packed bytes, one tensor group at a time.
