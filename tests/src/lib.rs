//! Filetests, end-to-end, differential and golden tests.
