//! The Q35 number format: streams, codecs, tables, encoders.
