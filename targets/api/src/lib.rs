//! What a target is: the Target trait, its capability table and the memory planner.
