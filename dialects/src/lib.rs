//! Op tables of the q35 dialect: IRDL, builders, documentation and reference evaluation from one declaration per op.
