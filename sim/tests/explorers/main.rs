//! Goal: the explorers see everything, and see it once. Method: each against the others and against
//! numbers that independent checkers reach, on small programs, random ones and scenarios.

mod clauses;
mod climb;
mod counts;
mod dpor;
mod dpor_locks;
mod dpor_random;
mod dpor_rcu;
mod dpor_scenarios;
mod futures;
mod kept;
mod outcomes;
mod persistent;
mod random;
mod together;
mod workers;
