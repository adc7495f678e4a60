//! The bundle on disk: manifest schema, writer, verified reader.
