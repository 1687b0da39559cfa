//! What guests run under: the tables of stage 2, and entering a guest.

pub(crate) mod guest;
pub(crate) mod stage2;
