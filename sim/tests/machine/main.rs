//! Goal: the simulated machine does what its documentation says. Method: programs of a few lines,
//! explored completely.

mod ad;
mod classes;
mod keys;
mod locks;
mod rcu;
mod rw_data;
mod steps;
