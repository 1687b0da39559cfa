//! Goal: what the explorers find is right, and what is written down of it is what they find.
//! Method: see each file.

mod checkpoints;
mod counts;
mod determinism;
mod guards_proved;
mod keys;
mod known;
mod mutants;
mod outcomes_table;
mod random;
mod random_races;
mod random_stage2;
mod random_vmids;
mod replay_thousand;
mod sizes;
mod stories;
#[path = "../told/mod.rs"]
mod told;
mod unread;
