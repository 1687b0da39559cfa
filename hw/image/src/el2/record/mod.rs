//! What happened in a run, and forcing it to happen in some order.

pub(crate) mod random;
pub(crate) mod recorder;
pub(crate) mod story;
