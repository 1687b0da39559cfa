//! What guests run under: memory, the tables of stage 2, and entering a guest.

pub(crate) mod frames;
pub(crate) mod guest;
pub(crate) mod stage2;
