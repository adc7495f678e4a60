//! Coded diagnostics in the model's own words.
