//! Loads and executes bundles.
